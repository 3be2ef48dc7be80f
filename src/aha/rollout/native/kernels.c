// The sampler's forward pass on a CPU, prompts and single tokens alike: a row is one token of one sequence.
//
// B rows, D width, V vocabulary, N query heads, K key/value heads, H head width, F feed-forward width.
// Everything that is multiplied is made of 32-bit words: one float32, or two neighbouring bfloat16 (half = 1). Sums, the
// residual stream, softmax and sampling are float32. A row's numbers do not depend on how many rows or threads there are:
// every sum has one order.
//
// With int8 matrices have whole numbers of -127 to 127 and a step for each output; a row that meets one gets
// the same, but for its largest (`squeeze`). Their products are summed exactly. Attention and the cache stay as half says.
//
// A matrix [out, in] is packed as [out / NR][words of in][NR], so that a tile of rows meets it as two vectors a word; in
// int8 a word has four numbers, each 128 more than it is, and one word more has the outputs' steps.
// A sequence's cache is a block of `cols` columns (a multiple of NR): for each layer and key/value head first the keys,
// [cols / NR][words of H][NR], then the values, [cols][H padded to VL], in bfloat16 two columns a word.
#include "vectors.h"
#if defined(__AVX512VNNI__) || defined(__AVX2__)
#include <immintrin.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

typedef struct {
    const float *norm, *qkv_bias, *query_norm, *key_norm, *out_bias, *feed_norm;  // biases and norms of heads: or NULL
    const word *qkv, *out, *gate_up, *down;
} Layer;

typedef struct {
    int64_t half, int8, layers, D, V, N, K, H, F;
    float eps;
    const word *embedding, *head;   // packed, and the same where the model ties them
    const float *norm, *cos, *sin;  // cos, sin: [positions, H / 2]
    const Layer *layer;
    float *x, *qkv;                    // [B, D], [B, (N + 2 K) H]
    word *normed, *query, *read, *act;  // [B, leading(words of D, N H, N H, F)], with room for float32
} Model;

typedef struct {  // of B rows: which token, where; its sequence's block, and one behind which that begins (or length 0)
    const int64_t *token, *position, *own, *own_cols, *past, *past_cols, *past_length;
} Rows;

INLINE vf load(const float *x, int64_t left, float rest) {  // the first `left` of a vector, then `rest`
    if (left >= VL) return *(const vf *)x;
    vf v = (vf){0} + rest;
    for (int i = 0; i < left; i++) v[i] = x[i];
    return v;
}

// Rows of words lie a little apart, so that those of one tile do not compete for the same lines of the cache.
INLINE int64_t leading(int64_t words) { return (words + 15) / 16 * 16 + 16; }
// How numbers are kept: float32, bfloat16, or bfloat16 in a word each, which spares a processor that multiplies no
// bfloat16 widening what meets a weight.
enum { WHOLE, HALF, WIDENED };
INLINE int form_of(const int kind) { return kind == HALF ? DOTS ? HALF : WIDENED : WHOLE; }  // of what meets the weights
INLINE int64_t words_of(const int form, int64_t numbers) { return form == HALF ? numbers / 2 : numbers; }
INLINE int64_t quarters(int64_t numbers) { return (numbers + 3) / 4; }
INLINE void put(const int form, word *row, int64_t i, int64_t n, vf x) {  // number i and the n - 1 behind it, at most VL
    const int half = form == HALF;
    vh halves = to_halves(x);
    if (form == WIDENED) x = (vf)(halves_of(x) << 16);
    if (n < VL) memcpy((char *)row + (half ? 2 : 4) * i, half ? (void *)&halves : (void *)&x, (size_t)((half ? 2 : 4) * n));
    else if (half) *(vh *)((uint16_t *)row + i) = halves;
    else *(vf *)(row + i) = x;
}

// From so many rows on a tile computes longer than its panel takes to come, and asks for the next panel meanwhile: what
// the processor foresees by itself ends with each page.
enum { AHEAD = 4 };
INLINE void fetch(const word *line) {  // NR words into the second cache
    for (int i = 0; i < NR; i += 16) __builtin_prefetch(line + i, 0, 2);
}

// ---- int8 ----------------------------------------------------------------------------------------------------------

enum { OUTLIERS = 8 };
enum { STEP, OFFSET, NUM, FAR };  // what stands behind a row's numbers: FAR has a pair of words for each of NUM

// The row's n float32 become int8 in their place, four a word. The largest that needs no more than int8 is the largest of
// all, halved as long as at most OUTLIERS are larger; of those a second number stands behind the row, which counts 128
// times, with the word it belongs to. OFFSET takes off what is added to the numbers of matrices. A number that is not
// finite makes the step NaN.
static void squeeze(word *row, int64_t n) {
    const float *x = (const float *)row;
    vf most = {0}, wrong = {0};
    vi sums = {0};
    for (int64_t i = 0; i < n; i += VL) {
        vf v = load(x + i, n - i, 0), size = (vf)((vi)v & 0x7fffffff);
        most = pick(size > most, size, most);
        wrong += v - v;
    }
    float largest = max_of(most), near = largest;
    for (int halved = 0; halved < 7; halved++) {
        vi larger = {0};
        for (int64_t i = 0; i < n; i += VL) larger -= (vf)((vi)load(x + i, n - i, 0) & 0x7fffffff) > near / 2;
        int32_t num = 0;
        for (int j = 0; j < VL; j++) num += larger[j];
        if (num > OUTLIERS) break;
        near /= 2;
    }
    float scale = near > 1e-30f ? 127.0f / near : 0;
    word far[2 * OUTLIERS], num = 0;
    for (int64_t i = 0; i < n; i += VL) {
        vf v = load(x + i, n - i, 0) * scale;
        for (int j = 0; j < VL; j++) v[j] = rintf(v[j]);
        vi whole = __builtin_convertvector(v, vi), over = (whole > 127) | (whole < -127);
        sums += whole;
        int32_t any = 0;
        for (int j = 0; j < VL; j++) any |= over[j];
        for (int j = 0; any && j < VL && num < OUTLIERS; j++) {
            if (!over[j]) continue;
            int32_t high = (whole[j] + 64) >> 7;
            whole[j] -= 128 * high;
            far[2 * num] = (word)(i + j) / 4;
            far[2 * num++ + 1] = (word)(high & 255) << 8 * ((i + j) % 4);
        }
        vb bytes = __builtin_convertvector(whole, vb);
        memcpy((char *)row + i, &bytes, VL);
    }
    int32_t sum = 0;
    for (int j = 0; j < VL; j++) sum += sums[j];
    row += quarters(n);
    row[STEP] = as_word(near / 127.0f + sum_of(wrong));
    row[OFFSET] = (word)(-128 * sum);
    row[NUM] = num;
    memcpy(row + FAR, far, num * 8);
}

INLINE vi dot8(vi sum, word a, vu b) {  // four signed numbers of a, four of 0 to 255 of every lane of b
#if defined(__AVX512VNNI__) && VL == 16
    return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)b, _mm512_set1_epi32((int)a));
#elif defined(__AVXVNNI__) && VL == 8
    return (vi)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)b, _mm256_set1_epi32((int)a));
#elif defined(__AVX2__) && VL == 8
    __m256i x = _mm256_set1_epi32((int)a), y = (__m256i)b, low = _mm256_set1_epi16(255);  // by pairs of 16 bits
    KEPT(x);
    __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8), _mm256_and_si256(y, low));
    return sum + (vi)even + (vi)_mm256_madd_epi16(_mm256_srai_epi16(x, 8), _mm256_srli_epi16(y, 8));
#else
    for (int j = 0; j < 4; j++) sum += (vi)(b >> 8 * j & 255) * (int8_t)(a >> 8 * j);
    return sum;
#endif
}

INLINE void tile8(const int R, const word *a, int64_t lda, const word *w, int64_t words, float *into) {
    vi sum[MR][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = (vi){0} + (int32_t)a[r * lda + words + OFFSET];
    for (int64_t k = 0; k < words; k++) {
        vu b0 = *(const vu *)(w + k * NR), b1 = *(const vu *)(w + k * NR + VL);
        if (R >= AHEAD) fetch(w + (words + 1 + k) * NR);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            word x = a[r * lda + k];
            sum[r][0] = dot8(sum[r][0], x, b0);
            sum[r][1] = dot8(sum[r][1], x, b1);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) { *(vi *)(into + r * NR) = sum[r][0]; *(vi *)(into + r * NR + VL) = sum[r][1]; }
}

// What a tile has left in `sum` of one row, with the row's outliers added, as float32.
INLINE void settle(const word *behind, const word *w, int64_t words, float *sum) {
    vi far0 = {0}, far1 = {0};
    const word *far = behind + FAR, *steps = w + words * NR;
    for (word i = 0; i < behind[NUM]; i++, far += 2) {
        far0 = dot8(far0, far[1], *(const vu *)(w + far[0] * NR));
        far1 = dot8(far1, far[1], *(const vu *)(w + far[0] * NR + VL));
    }
    float step = as_float(behind[STEP]);
    *(vf *)sum = __builtin_convertvector(*(vi *)sum + 128 * far0, vf) * (step * *(const vf *)steps);
    *(vf *)(sum + VL) = __builtin_convertvector(*(vi *)(sum + VL) + 128 * far1, vf) * (step * *(const vf *)(steps + VL));
}

// ---- matrix product ------------------------------------------------------------------------------------------------

enum { STORE, ADD, SWIGLU };
enum { INT8 = 2 };  // beside float32 and bfloat16, which are `half` 0 and 1

INLINE void tile(const int half, const int R, const word *a, int64_t lda, const word *w, int64_t words, float *into) {
    const int parts = half && !DOTS ? 2 : 1;  // of a word of weights: its lower number, then the upper
    vf sum[MR][2];
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) sum[r][0] = sum[r][1] = (vf){0};
    for (int64_t k = 0; k < words; k++) {
        if (R >= AHEAD) fetch(w + (words + k) * NR);
#pragma GCC unroll 2
        for (int part = 0; part < parts; part++) {
            vu b0 = *(const vu *)(w + k * NR), b1 = *(const vu *)(w + k * NR + VL);
            if (parts == 2 && part == 0) { b0 <<= 16; b1 <<= 16; }
            if (part == 1) { b0 &= 0xffff0000; b1 &= 0xffff0000; }
            KEPT(b0);
            KEPT(b1);
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                word x = a[r * lda + parts * k + part];
                sum[r][0] = dot(half && DOTS, sum[r][0], x, b0);
                sum[r][1] = dot(half && DOTS, sum[r][1], x, b1);
            }
            if (parts == 2) __asm__ volatile("" ::: "memory");  // or sums leave their registers
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; r++) { *(vf *)(into + r * NR) = sum[r][0]; *(vf *)(into + r * NR + VL) = sum[r][1]; }
}

// One thread's share of out [B, N] = (out +) a w + bias. SWIGLU: a panel has VL gates, then their VL ups; out is words.
INLINE void product(const int kind, int64_t B, int64_t words, int64_t N, const word *a, int64_t lda, const word *w,
                    const float *bias, void *out, int64_t ldo, int mode, int thread, int threads) {
    int64_t panels = (N + NR - 1) / NR, tiles = (B + MR - 1) / MR;
    for (int64_t p = panels * thread / threads; p < panels * (thread + 1) / threads; p++) {
        const word *panel = w + p * (words + (kind == INT8)) * NR;
        int64_t wide = N - p * NR < NR ? N - p * NR : NR;
        for (int64_t t = 0; t < tiles; t++) {
            int64_t first = B * t / tiles, rows = B * (t + 1) / tiles - first;
            float sums[MR * NR];
            const word *from = a + first * lda;
            switch (rows) {
#define TILE(R) \
    case R: \
        if (kind == INT8) tile8(R, from, lda, panel, words, sums); else tile(kind, R, from, lda, panel, words, sums); \
        break;
                TILE(1) TILE(2) TILE(3) TILE(4) TILE(5) TILE(6)
#if MR > 6
                TILE(7) TILE(8) TILE(9) TILE(10) TILE(11) TILE(12) TILE(13) TILE(14)
#endif
            }
            for (int64_t r = 0; r < rows; r++) {
                float *sum = sums + r * NR;
                if (kind == INT8) settle(from + r * lda + words, panel, words, sum);
                if (mode == SWIGLU) {
                    vf gate = *(vf *)sum, made = gate / (exponential(-gate) + 1.0f) * *(vf *)(sum + VL);
                    word *row = (word *)out + (first + r) * ldo;
                    put(form_of(kind), row, p * VL, VL, made);
                    continue;
                }
                float *row = (float *)out + (first + r) * ldo + p * NR;
                for (int64_t i = 0; i < wide; i += VL) {
                    vf value = *(vf *)(sum + i);
                    if (bias) value += load(bias + p * NR + i, wide - i, 0);
                    if (mode == ADD) value += load(row + i, wide - i, 0);
                    put(0, (word *)row, i, wide - i, value);
                }
            }
        }
    }
}

static void multiply(int kind, int64_t B, int64_t words, int64_t N, const word *a, int64_t lda, const word *w,
                     const float *bias, void *out, int64_t ldo, int mode, int thread, int threads) {
    if (kind == INT8) product(INT8, B, words, N, a, lda, w, bias, out, ldo, mode, thread, threads);
    else if (kind) product(1, B, words, N, a, lda, w, bias, out, ldo, mode, thread, threads);
    else product(0, B, words, N, a, lda, w, bias, out, ldo, mode, thread, threads);
}

// ---- norm, rotation, attention -------------------------------------------------------------------------------------

INLINE float scale_of(const float *x, int64_t n, float eps) {  // 1 / root mean square
    vf sums = {0};
    for (int64_t i = 0; i < n; i += VL) { vf v = load(x + i, n - i, 0); sums += v * v; }
    return 1.0f / sqrtf(sum_of(sums) / (float)n + eps);
}

INLINE void normalise(const int form, const float *x, const float *weight, int64_t n, float eps, word *out) {
    float scale = scale_of(x, n, eps);
    for (int64_t i = 0; i < n; i += VL)
        put(form, out, i, n - i, load(x + i, n - i, 0) * scale * load(weight + i, n - i, 0));
}

INLINE void turn(float *restrict head, int64_t H, const float *norm, float eps, const float *cos, const float *sin) {
    if (norm) {
        float scale = scale_of(head, H, eps);
        for (int64_t i = 0; i < H; i++) head[i] *= scale * norm[i];
    }
    for (int64_t i = 0; i < H / 2; i++) {
        float left = head[i], right = head[i + H / 2];
        head[i] = left * cos[i] - right * sin[i];
        head[i + H / 2] = right * cos[i] + left * sin[i];
    }
}

INLINE int64_t padded(int64_t H) { return (H + VL - 1) / VL * VL; }
INLINE int64_t head_words(const int half, int64_t H, int64_t cols) {
    return cols * words_of(half, H) + words_of(half, cols) * padded(H);
}

INLINE void keep(const int half, int64_t H, word *block, int64_t cols, int64_t at, const float *key, const float *value) {
    int64_t words = words_of(half, H), per_word = half ? 2 : 1;
    word *keys = block + at / NR * words * NR + at % NR, *values = block + cols * words + at / per_word * padded(H);
    for (int64_t i = 0; i < H; i += VL) {
        vf k = load(key + i, H - i, 0), v = load(value + i, H - i, 0);
        vh k_halves = to_halves(k), v_halves = to_halves(v);
        for (int j = 0; j < VL && i + j < H; j++)
            if (half) {
                ((uint16_t *)(keys + (i + j) / 2 * NR))[j % 2] = k_halves[j];
                ((uint16_t *)(values + i + j))[at % 2] = v_halves[j];
            } else keys[(i + j) * NR] = as_word(k[j]);
        if (!half) *(vf *)(values + i) = v;
    }
}

// Scores of C panels of keys, of which `length` columns are left. `soon` is asked for meanwhile, as many words as there
// are keys.
INLINE void score_panels(const int half, const int G, const int C, const word *query, int64_t words, const word *keys,
                         int64_t length, const word *soon, float *into, int64_t ld) {
    vf sum[4][4];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int i = 0; i < 2 * C; i++) sum[g][i] = (vf){0};
    for (int64_t h = 0; h < words; h++) {
        vu key[4];
#pragma GCC unroll 2
        for (int c = 0; c < C; c++) {
            int64_t at = (c * words + h) * NR;
            fetch(soon + at);
            key[2 * c] = *(const vu *)(keys + at);
            key[2 * c + 1] = *(const vu *)(keys + at + VL);
            KEPT(key[2 * c]);
            KEPT(key[2 * c + 1]);
        }
#pragma GCC unroll 4
        for (int g = 0; g < G; g++)
#pragma GCC unroll 4
            for (int i = 0; i < 2 * C; i++) sum[g][i] = dot(half, sum[g][i], query[g * words + h], key[i]);
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; g++) {
#pragma GCC unroll 4
        for (int i = 0; i < 2 * C; i++) *(vf *)(into + g * ld + i * VL) = sum[g][i];
        for (int64_t i = length; i < C * NR; i++) into[g * ld + i] = -INFINITY;
    }
}

INLINE void score(const int half, const int G, const word *query, int64_t words, const word *keys, int64_t length,
                  const word *soon, float *into, int64_t ld) {
    const int C = 2 * G <= MR - 2 ? 2 : 1;  // two while their sums have registers: one's wait for each other
    for (int64_t at = 0, more; at < length; at += more) {
        more = length - at > NR ? C * NR : NR;
        if (more > NR) score_panels(half, G, 2, query, words, keys, length - at, soon, into, ld);
        else score_panels(half, G, 1, query, words, keys, length - at, soon, into, ld);
        keys += more * words, soon += more * words, into += more;
    }
}

INLINE void gather(const int half, const int G, const int W, const word *weights, int64_t ld, const word *values,
                   int64_t num, int64_t stride, float *into, int64_t ldi) {
    vf sum[4][4];
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int i = 0; i < W; i++) sum[g][i] = *(vf *)(into + g * ldi + i * VL);
    for (int64_t s = 0; s < num; s++) {
        vu v[4];
#pragma GCC unroll 4
        for (int i = 0; i < W; i++) v[i] = *(const vu *)(values + s * stride + i * VL);
#pragma GCC unroll 4
        for (int g = 0; g < G; g++)
#pragma GCC unroll 4
            for (int i = 0; i < W; i++) sum[g][i] = dot(half, sum[g][i], weights[g * ld + s], v[i]);
    }
#pragma GCC unroll 4
    for (int g = 0; g < G; g++)
#pragma GCC unroll 4
        for (int i = 0; i < W; i++) *(vf *)(into + g * ldi + i * VL) = sum[g][i];
}

// G query heads of one key/value head over two blocks; `scores` has room for twice G ld floats, and G padded(H).
INLINE void attend(const int half, const int out_form, const int G, int64_t H, const word *query, const word *past, int64_t past_cols,
                   int64_t past_length, const word *own, int64_t own_cols, int64_t own_length, float *scores,
                   int64_t ld, word *out) {
    int64_t words = words_of(half, H), Hp = padded(H), before = (past_length + NR - 1) / NR * NR;
    int64_t all = before + (own_length + NR - 1) / NR * NR;
    word *weights = (word *)(scores + G * ld);
    float *read = scores + 2 * G * ld, total[4];
    score(half, G, query, words, past, past_length, own, scores, ld);
    score(half, G, query, words, own, own_length, own + own_cols * words, scores + before, ld);
    for (int g = 0; g < G; g++) {
        float *of = scores + g * ld;
        vf most = (vf){0} - INFINITY, sum = {0};
        for (int64_t s = 0; s < all; s += VL) { vf x = *(vf *)(of + s); most = pick(x > most, x, most); }
        float largest = max_of(most), scale = 1.0f / sqrtf((float)H);
        for (int64_t s = 0; s < all; s += VL) {
            vf p = exponential((*(vf *)(of + s) - largest) * scale);
            sum += p;
            put(half, weights + g * ld, s, VL, p);
        }
        total[g] = sum_of(sum);
    }
    memset(read, 0, (size_t)(G * Hp) * 4);
    for (int part = 0; part < 2; part++) {
        const word *values = part ? own + own_cols * words : past + past_cols * words;
        const word *from = weights + (part ? words_of(half, before) : 0);
        int64_t length = part ? own_length : past_length, num = half ? (length + 1) / 2 : length, i = 0;
        if (!length) continue;
        for (; i + 4 * VL <= Hp; i += 4 * VL) gather(half, G, 4, from, ld, values + i, num, Hp, read + i, Hp);
        for (; i < Hp; i += VL) gather(half, G, 1, from, ld, values + i, num, Hp, read + i, Hp);
    }
    for (int g = 0; g < G; g++)
        for (int64_t i = 0; i < H; i += VL) put(out_form, out, g * H + i, H - i, *(vf *)(read + g * Hp + i) / total[g]);
}

// ---- the layers ----------------------------------------------------------------------------------------------------

INLINE void run(const int half, const int int8, const Model *m, int64_t B, const Rows *rows, int64_t longest, int thread, int threads) {
    int64_t D = m->D, N = m->N, K = m->K, H = m->H, width = (N + 2 * K) * H, group = N / K;
    int64_t first = B * thread / threads, last = B * (thread + 1) / threads;
    const int kind = int8 ? INT8 : half, made = form_of(kind);  // of products; of what they meet when it is made
    int64_t words_D = int8 ? quarters(D) : words_of(half, D), words_N = int8 ? quarters(N * H) : words_of(half, N * H);
    int64_t words_F = int8 ? quarters(m->F) : words_of(half, m->F), lead_query = leading(words_of(half, N * H));
    int64_t lead_D = leading(words_of(made, D)), lead_N = leading(words_of(made, N * H));
    int64_t lead_F = leading(words_of(made, m->F));
    float *scores = malloc((size_t)(4 * (2 * longest + padded(H))) * 4);
    for (int64_t b = first; b < last; b++) {
        int64_t token = rows->token[b], words = int8 ? words_D + 1 : words_D;
        const word *row = m->embedding + token / NR * words * NR + token % NR;
        for (int64_t i = 0; int8 && i < D; i++)
            m->x[b * D + i] = (float)((int32_t)(row[i / 4 * NR] >> i % 4 * 8 & 255) - 128) * as_float(row[words_D * NR]);
        for (int64_t i = 0; !int8 && i < words; i++) {
            word w = row[i * NR];
            if (half) { m->x[b * D + 2 * i] = as_float(w << 16); m->x[b * D + 2 * i + 1] = as_float(w & 0xffff0000); }
            else m->x[b * D + i] = as_float(w);
        }
    }
    for (int64_t l = 0; l < m->layers; l++) {
        const Layer *layer = m->layer + l;
        for (int64_t b = first; b < last; b++) {
            normalise(made, m->x + b * D, layer->norm, D, m->eps, m->normed + b * lead_D);
            if (int8) squeeze(m->normed + b * lead_D, D);
        }
#pragma omp barrier
        multiply(kind, B, words_D, width, m->normed, lead_D, layer->qkv, layer->qkv_bias, m->qkv, width,
                 STORE, thread, threads);
#pragma omp barrier
        for (int64_t b = first; b < last; b++) {
            float *heads = m->qkv + b * width;
            const float *cos = m->cos + rows->position[b] * (H / 2), *sin = m->sin + rows->position[b] * (H / 2);
            int64_t cols = rows->own_cols[b];
            for (int64_t n = 0; n < N + K; n++)
                turn(heads + n * H, H, n < N ? layer->query_norm : layer->key_norm, m->eps, cos, sin);
            for (int64_t i = 0; i < N * H; i += VL) put(half, m->query + b * lead_query, i, N * H - i, load(heads + i, N * H - i, 0));
            for (int64_t k = 0; k < K; k++)
                keep(half, H, (word *)rows->own[b] + (l * K + k) * head_words(half, H, cols), cols,
                     rows->position[b] - rows->past_length[b], heads + (N + k) * H, heads + (N + K + k) * H);
        }
#pragma omp barrier
        for (int64_t i = K * B * thread / threads; i < K * B * (thread + 1) / threads; i++) {
            int64_t k = i / B, b = i % B, done = 0, past_length = rows->past_length[b];
            const word *own = (const word *)rows->own[b] + (l * K + k) * head_words(half, H, rows->own_cols[b]);
            const word *past = (const word *)rows->past[b] + (l * K + k) * head_words(half, H, rows->past_cols[b]);
            const word *query = m->query + b * lead_query + k * words_of(half, group * H);
            word *out = m->read + b * lead_N + k * words_of(made, group * H);
#define ATTEND(G) \
    for (; group - done >= G; done += G) \
        attend(half, made, G, H, query + words_of(half, done * H), past, rows->past_cols[b], past_length, own, \
               rows->own_cols[b], rows->position[b] - past_length + 1, scores, longest, out + words_of(made, done * H));
            ATTEND(4) ATTEND(3) ATTEND(2) ATTEND(1)
        }
#pragma omp barrier
        if (int8) {
            for (int64_t b = first; b < last; b++) squeeze(m->read + b * lead_N, N * H);
#pragma omp barrier
        }
        multiply(kind, B, words_N, D, m->read, lead_N, layer->out, layer->out_bias, m->x, D, ADD, thread,
                 threads);
#pragma omp barrier
        for (int64_t b = first; b < last; b++) {
            normalise(made, m->x + b * D, layer->feed_norm, D, m->eps, m->normed + b * lead_D);
            if (int8) squeeze(m->normed + b * lead_D, D);
        }
#pragma omp barrier
        multiply(kind, B, words_D, (m->F + VL - 1) / VL * NR, m->normed, lead_D, layer->gate_up, NULL, m->act,
                 lead_F, SWIGLU, thread, threads);
#pragma omp barrier
        if (int8) {
            for (int64_t b = first; b < last; b++) squeeze(m->act + b * lead_F, m->F);
#pragma omp barrier
        }
        multiply(kind, B, words_F, D, m->act, lead_F, layer->down, NULL, m->x, D, ADD, thread, threads);
#pragma omp barrier
    }
    free(scores);
}

INLINE void read_off(const int half, const int int8, const Model *m, int64_t B, const int64_t *row, float *logits, int thread,
                     int threads) {
    const int kind = int8 ? INT8 : half, made = form_of(kind);
    int64_t D = m->D, lead_D = leading(words_of(made, D)), words = int8 ? quarters(D) : words_of(half, D);
    for (int64_t b = B * thread / threads; b < B * (thread + 1) / threads; b++) {
        normalise(made, m->x + (row ? row[b] : b) * D, m->norm, D, m->eps, m->normed + b * lead_D);
        if (int8) squeeze(m->normed + b * lead_D, D);
    }
#pragma omp barrier
    multiply(kind, B, words, m->V, m->normed, lead_D, m->head, NULL, logits, m->V, STORE, thread, threads);
}

#ifdef _OPENMP
#define THREAD omp_get_thread_num(), omp_get_num_threads()
#else
#define THREAD 0, 1
#endif

// What the caller must know: lanes of a vector, columns of a panel and of a block of keys.
int64_t vector_lanes(void) { return VL; }

// Reads B rows: their keys and values go into the cache, the residual stream stays in x. `longest` bounds a row's columns
// of both blocks together, each rounded up to NR.
void forward(const Model *m, int64_t B, const Rows *rows, int64_t longest, int64_t threads) {
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    if (m->int8) run(1, 1, m, B, rows, longest, THREAD);
    else if (m->half) run(1, 0, m, B, rows, longest, THREAD);
    else run(0, 0, m, B, rows, longest, THREAD);
}

// Logits [B, V] of the given rows of the last forward; of the first B where `row` is NULL.
void read_logits(const Model *m, int64_t B, const int64_t *row, float *logits, int64_t threads) {
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    if (m->int8) read_off(1, 1, m, B, row, logits, THREAD);
    else if (m->half) read_off(1, 0, m, B, row, logits, THREAD);
    else read_off(0, 0, m, B, row, logits, THREAD);
}

// out [B, N] of B rows of n float32, leading(n) words apart, which become int8, and a packed int8 matrix.
void multiply_int8(int64_t B, int64_t n, int64_t N, word *rows, const word *w, float *out) {
    int64_t lead = leading(n);
    for (int64_t b = 0; b < B; b++) squeeze(rows + b * lead, n);
    multiply(INT8, B, quarters(n), N, rows, lead, w, NULL, out, N, STORE, 0, 1);
}

// Copies the cache of texts, `length` tokens from the start of a block behind the first `at` of another, in rows of `copy`:
// from, from_cols, length, into, into_cols, at.
void copy_cache(const Model *m, int64_t B, const int64_t *copy) {
    int64_t half = m->half, H = m->H, words = words_of((int)half, H), Hp = padded(H);
    for (int64_t b = 0; b < B; b++, copy += 6) {
        int64_t from_cols = copy[1], length = copy[2], into_cols = copy[4], at = copy[5], run;
        for (int64_t head = 0; head < m->layers * m->K; head++) {
            const word *from = (const word *)copy[0] + head * head_words((int)half, H, from_cols);
            word *into = (word *)copy[3] + head * head_words((int)half, H, into_cols);
            for (int64_t t = 0; t < length; t += run) {  // as many as lie side by side in both
                int64_t s = at + t, here = NR - t % NR, there = NR - s % NR;
                run = length - t < here ? length - t : here;
                if (there < run) run = there;
                for (int64_t w = 0; w < words; w++)
                    memcpy(into + (s / NR * words + w) * NR + s % NR, from + (t / NR * words + w) * NR + t % NR,
                           (size_t)run * 4);
            }
            from += from_cols * words;
            into += into_cols * words;
            if (!half) memcpy(into + at * Hp, from, (size_t)(length * Hp) * 4);
            else
                for (int64_t t = 0; t < length; t++)
                    for (int64_t i = 0; i < Hp; i++)
                        ((uint16_t *)(into + (at + t) / 2 * Hp + i))[(at + t) % 2] =
                            ((const uint16_t *)(from + t / 2 * Hp + i))[t % 2];
        }
    }
}

// ---- sampling ------------------------------------------------------------------------------------------------------

static double uniform(uint64_t seed, uint64_t index) {  // as sampler.py: SplitMix64 read at `index`
    uint64_t z = seed + (index + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

enum { CHUNK = 32 * VL };

// Of p [V, padded with 0 to VL]: how many numbers are at least `least`, or the sum of those.
INLINE double at_least(const float *p, int64_t V, float least, const int counts) {
    double total = 0;
    for (int64_t from = 0; from < V; from += CHUNK) {
        vf sum = {0};
        int64_t end = from + CHUNK < V ? from + CHUNK : V;
        for (int64_t i = from; i < end; i += VL) {
            vf x = *(const vf *)(p + i), each = x;
            if (counts) each = (vf){0} + 1.0f;
            sum += pick(x >= least, each, (vf){0});
        }
        total += sum_of(sum);
    }
    return total;
}

// The largest number of which `wanted` or more (of count or sum) are at least as large; floats over 0 order as their bits.
INLINE float smallest_kept(const float *p, int64_t V, float least, double wanted, const int counts) {
    word low = as_word(least), high = as_word(1.0f) + 1;
    while (high - low > 1) {
        word middle = low + (high - low) / 2;
        if (at_least(p, V, as_float(middle), counts) >= wanted) low = middle; else high = middle;
    }
    return as_float(low);
}

// As sampler.py: temperature, then top-k, then top-p (0 and 1 keep all); `p` has room for V numbers, and VL more.
static void draw(const float *x, int64_t V, float temperature, int64_t top_k, double top_p, double u, float *p,
                 int64_t *token, float *logprob) {
    vf most = (vf){0} - INFINITY, wrong = {0};
    for (int64_t i = 0; i < V; i += VL) {
        vf v = load(x + i, V - i, -INFINITY);
        most = pick(v > most, v, most);
        wrong += pick(v != v, v, (vf){0});
    }
    float largest = max_of(most), broken = sum_of(wrong) + (largest - largest), least = 0;
    *token = 0;
    if (temperature == 0.0f || broken != 0.0f) {
        while (*token < V - 1 && x[*token] != largest) ++*token;
        *logprob = broken;
        return;
    }
    for (int64_t i = 0; i < V; i += VL)
        *(vf *)(p + i) = exponential((load(x + i, V - i, -INFINITY) - largest) / temperature);
    if (top_k > 0 && top_k < V) least = smallest_kept(p, V, least, (double)top_k, 1);
    if (top_p < 1.0) least = smallest_kept(p, V, least, top_p * at_least(p, V, least, 0), 0);
    double total = 0, passed = 0;
    double sums[(V + CHUNK - 1) / CHUNK];
    for (int64_t c = 0; c * CHUNK < V; c++) {
        int64_t left = V - c * CHUNK;
        total += sums[c] = at_least(p + c * CHUNK, left < CHUNK ? left : CHUNK, least, 0);
    }
    double target = u * total;
    for (int64_t c = 0; c * CHUNK < V; passed += sums[c++]) {
        if (passed + sums[c] <= target && (c + 1) * CHUNK < V) continue;
        double up_to = passed;
        int64_t end = (c + 1) * CHUNK < V ? (c + 1) * CHUNK : V;
        for (int64_t i = c * CHUNK; i < end; i++) {
            if (p[i] < least || p[i] == 0.0f) continue;
            *token = i;  // rounding may leave the target behind the last: then it is that
            up_to += p[i];
            if (up_to > target) goto found;
        }
        if (sums[c] > 0.0) break;
    }
found:
    *logprob = (float)((x[*token] - largest) / (double)temperature - log(total));
}

typedef struct {  // what live rows have sampled, by slot, and the tokens at which somebody must look (bits of rows.py)
    int64_t *token, *position, *count;
    const int64_t *seed, *limit;
    int64_t *out_token;
    float *out_logprob;  // both [slots, ld]
    int64_t ld;
    const uint8_t *flags;  // [V]
} State;

// Appends what was sampled for slots 0 .. B - 1; `reported` gets slots to look at and their bits, in pairs. Their number.
int64_t record(const State *s, int64_t B, const int64_t *token, const float *logprob, int64_t *reported) {
    int64_t num = 0;
    for (int64_t b = 0; b < B; b++) {
        int64_t count = s->count[b]++, bits = s->flags[token[b]];
        s->out_token[b * s->ld + count] = s->token[b] = token[b];
        s->out_logprob[b * s->ld + count] = logprob[b];
        s->position[b]++;
        if (count + 1 >= s->limit[b]) bits |= 4;
        if (logprob[b] - logprob[b] != 0.0f) bits |= 8;
        if (bits) { reported[2 * num] = b; reported[2 * num++ + 1] = bits; }
    }
    return num;
}

// One token of each of B rows: by inverse CDF with the uniform number `index` of its seed; at temperature 0 the largest.
void sample(const float *logits, int64_t B, int64_t V, float temperature, int64_t top_k, double top_p,
            const int64_t *seed, const int64_t *index, int64_t *token, float *logprob, int64_t threads) {
#pragma omp parallel num_threads((int)threads) if (threads > 1)
    {
        float *p = malloc((size_t)(V + VL) * 4);
#pragma omp for
        for (int64_t b = 0; b < B; b++)
            draw(logits + b * V, V, temperature, top_k, top_p, uniform((uint64_t)seed[b], (uint64_t)index[b]), p,
                 token + b, logprob + b);
        free(p);
    }
}
