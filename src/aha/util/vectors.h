// What the C files share: vectors of the processor's width, words of one float32 or two neighbouring bfloat16, and the
// arithmetic of both. VL lanes of a vector, NR of a panel of two, MR rows whose sums a tile keeps in registers.
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define VL 16
#define MR 14
#elif defined(__AVX__)
#define VL 8
#define MR 6
#else
#define VL 4
#define MR 6
#endif
#ifdef __AVX512BF16__
#define DOTS 1  // it multiplies words of bfloat16
#else
#define DOTS 0
#endif
#define NR (2 * VL)
#define INLINE static inline __attribute__((always_inline))

typedef uint32_t word;
typedef float vf __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * VL), aligned(4), may_alias));
typedef uint16_t vh __attribute__((vector_size(2 * VL), aligned(2), may_alias));
typedef int8_t vb __attribute__((vector_size(VL), aligned(1), may_alias));

INLINE float as_float(word u) { float f; memcpy(&f, &u, 4); return f; }
INLINE word as_word(float f) { word u; memcpy(&u, &f, 4); return u; }
INLINE vf pick(vi where, vf yes, vf no) { return (vf)(((vi)yes & where) | ((vi)no & ~where)); }

INLINE vu halves_of(vf x) {  // to the nearest, ties to even; NaN stays NaN
    vu u = (vu)x, nan = (vu)(x != x);
    return (nan & 0x7fc0) | (~nan & (u + 0x7fff + (u >> 16 & 1)) >> 16);
}
INLINE vh to_halves(vf x) { return __builtin_convertvector(halves_of(x), vh); }

// Stays in a register: else compilers read it anew for every use of it, or take a broadcast word apart before that is
// broadcast, by three instructions where one would do.
#if defined(__AVX__)
#define KEPT(v) __asm__("" : "+v"(v))
#else
#define KEPT(v)
#endif

INLINE vf dot(const int half, vf sum, word a, vu b) {
    if (!half) return sum + as_float(a) * (vf)b;
#if DOTS
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)_mm512_set1_epi32((int)a), (__m512bh)b);
#else
    vu both = (vu){0} + a;
    KEPT(both);
    return sum + (vf)(both << 16) * (vf)(b << 16) + (vf)(both & 0xffff0000) * (vf)(b & 0xffff0000);
#endif
}

INLINE vf exponential(vf x) {  // relative error under 2e-7 (Cephes' polynomial); 0 under -87, the same over 88
    vf zero = {0};
    x = pick(x > 88.0f, zero + 88.0f, x);
    vf shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
    vf r = x - n * 0.693359375f + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vf scaled = p * (vf)(((vi)shifted - 0x4b400000 + 127) << 23);
    return pick(x < -87.0f, zero, scaled);
}

INLINE float sum_of(vf v) { float s = 0; for (int i = 0; i < VL; i++) s += v[i]; return s; }
INLINE float max_of(vf v) { float m = v[0]; for (int i = 1; i < VL; i++) m = v[i] > m ? v[i] : m; return m; }
