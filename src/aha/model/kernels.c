// What a training step does beside its matrix products, each in one pass over memory, forward and backward.
//
// A loop's body is a function of its own with a constant `half`: what OpenMP takes out of a function knows none, and loops
// that ask for `half` at every number are not vectors, or masked ones.
//
// M rows, D width, N heads, H head width, V vocabulary. Tensors are float32 or, with half = 1, bfloat16; sums and what
// is kept of a row are float32. A row's numbers do not depend on the number of threads, nor does any sum over rows.
#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define ROWS _Pragma("omp parallel for schedule(static) num_threads(threads) if (threads > 1)")
#define BLOCK 64  // rows whose gradients of a weight are summed by one thread
#define PIECE 4096  // numbers that one thread takes at a time
#define END(from) ((from) + PIECE < n ? (from) + PIECE : n)

INLINE float from_bits(uint32_t u) { float f; memcpy(&f, &u, 4); return f; }
INLINE uint32_t to_bits(float f) { uint32_t u; memcpy(&u, &f, 4); return u; }
INLINE uint16_t narrow(float f) {  // to the nearest, ties to even; NaN stays NaN
    uint32_t u = to_bits(f), rounded = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    return (u & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : rounded;
}
INLINE float get(const void *x, int64_t i, int half) {
    return half ? from_bits((uint32_t)((const uint16_t *)x)[i] << 16) : ((const float *)x)[i];
}
INLINE void put(void *x, int64_t i, float value, int half) {
    if (half) ((uint16_t *)x)[i] = narrow(value);
    else ((float *)x)[i] = value;
}
INLINE float rounded(float value, int half) { return half ? from_bits((uint32_t)narrow(value) << 16) : value; }
INLINE const void *at(const void *x, int64_t i, int half) { return (const char *)x + (half ? 2 : 4) * i; }
INLINE void *at_(void *x, int64_t i, int half) { return (char *)x + (half ? 2 : 4) * i; }

// Within 2 units in the last place; below -87.3 it stays at 1e-38, and what is not a number stays so.
INLINE float exponential(float x) {
    x = x < -87.3f ? -87.3f : x > 88.7f ? 88.7f : x;
    float n = rintf(x * 1.44269504f);
    float r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fmaf(p, r, 1.3981999507e-3f);
    p = fmaf(p, r, 8.3334519073e-3f);
    p = fmaf(p, r, 4.1665795894e-2f);
    p = fmaf(p, r, 1.6666665459e-1f);
    p = fmaf(p, r, 5.0000001201e-1f);
    p = fmaf(p, r * r, r) + 1.0f;
    // 2^n in two factors: n may be 128, which has no float
    int32_t k = (int32_t)n, low = k >> 1;
    return p * from_bits((uint32_t)(low + 127) << 23) * from_bits((uint32_t)(k - low + 127) << 23);
}
INLINE float logistic(float x) { return 1.0f / (1.0f + exponential(-x)); }

// ---- RMSNorm, of a sum where there is one ----

INLINE void norm_forward_(const void *x, const void *add, const void *weight, void *sum, void *y, float *scale, int64_t m,
                          int64_t D, float eps, const int half) {
    const void *row = at(x, m * D, half), *more = add ? at(add, m * D, half) : 0;
    void *out = at_(y, m * D, half);
    float squares = 0.0f;
    if (add) {
        void *both = at_(sum, m * D, half);
#pragma omp simd reduction(+ : squares)
        for (int64_t d = 0; d < D; d++) {
            float value = rounded(get(row, d, half) + get(more, d, half), half);
            put(both, d, value, half);
            squares += value * value;
        }
        row = both;
    } else {
#pragma omp simd reduction(+ : squares)
        for (int64_t d = 0; d < D; d++) squares += get(row, d, half) * get(row, d, half);
    }
    float factor = 1.0f / sqrtf(squares / (float)D + eps);
    scale[m] = factor;
#pragma omp simd
    for (int64_t d = 0; d < D; d++)
        put(out, d, rounded(get(row, d, half) * factor, half) * get(weight, d, half), half);
}
void norm_forward(const void *x, const void *add, const void *weight, void *sum, void *y, float *scale, int64_t M,
                  int64_t D, float eps, int half, int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) norm_forward_(x, add, weight, sum, y, scale, m, D, eps, 1);
        else norm_forward_(x, add, weight, sum, y, scale, m, D, eps, 0);
}

// The norm again, from the scale of each row
INLINE void norm_again_(const void *x, const void *weight, const float *scale, void *y, int64_t m, int64_t D,
                        const int half) {
    const void *row = at(x, m * D, half);
    void *out = at_(y, m * D, half);
#pragma omp simd
    for (int64_t d = 0; d < D; d++)
        put(out, d, rounded(get(row, d, half) * scale[m], half) * get(weight, d, half), half);
}
void norm_again(const void *x, const void *weight, const float *scale, void *y, int64_t M, int64_t D, int half,
                int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) norm_again_(x, weight, scale, y, m, D, 1);
        else norm_again_(x, weight, scale, y, m, D, 0);
}

// grad_x, with `more` added where it is given; grad_weight [blocks of rows, D]
INLINE void norm_backward_(const void *grad, const void *more, const void *x, const void *weight, const float *scale,
                           void *grad_x, float *grad_weight, int64_t b, int64_t M, int64_t D, const int half) {
    float *own = grad_weight + b * D;
    memset(own, 0, 4 * D);
    int64_t end = (b + 1) * BLOCK < M ? (b + 1) * BLOCK : M;
    for (int64_t m = b * BLOCK; m < end; m++) {
        const void *g = at(grad, m * D, half), *row = at(x, m * D, half), *also = more ? at(more, m * D, half) : 0;
        void *out = at_(grad_x, m * D, half);
        float factor = scale[m], along = 0.0f;
#pragma omp simd reduction(+ : along)
        for (int64_t d = 0; d < D; d++) {
            float unit = rounded(get(row, d, half) * factor, half);
            own[d] += get(g, d, half) * unit;
            along += get(g, d, half) * get(weight, d, half) * unit;
        }
        along /= (float)D;
        if (more) {
#pragma omp simd
            for (int64_t d = 0; d < D; d++) {
                float unit = rounded(get(row, d, half) * factor, half);
                float value = (get(g, d, half) * get(weight, d, half) - unit * along) * factor;
                put(out, d, value + get(also, d, half), half);
            }
        } else {
#pragma omp simd
            for (int64_t d = 0; d < D; d++) {
                float unit = rounded(get(row, d, half) * factor, half);
                put(out, d, (get(g, d, half) * get(weight, d, half) - unit * along) * factor, half);
            }
        }
    }
}
void norm_backward(const void *grad, const void *more, const void *x, const void *weight, const float *scale,
                   void *grad_x, float *grad_weight, int64_t M, int64_t D, int half, int threads) {
    int64_t blocks = (M + BLOCK - 1) / BLOCK;
    ROWS for (int64_t b = 0; b < blocks; b++)
        if (half) norm_backward_(grad, more, x, weight, scale, grad_x, grad_weight, b, M, D, 1);
        else norm_backward_(grad, more, x, weight, scale, grad_x, grad_weight, b, M, D, 0);
}

// ---- SwiGLU: silu(gate) * up ----

INLINE void swiglu_forward_(const void *gate, const void *up, void *y, int64_t m, int64_t D, const int half) {
    const void *a = at(gate, m * D, half), *b = at(up, m * D, half);
    void *out = at_(y, m * D, half);
#pragma omp simd
    for (int64_t d = 0; d < D; d++) {
        float x = get(a, d, half);
        put(out, d, rounded(x * logistic(x), half) * get(b, d, half), half);
    }
}
void swiglu_forward(const void *gate, const void *up, void *y, int64_t M, int64_t D, int half, int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) swiglu_forward_(gate, up, y, m, D, 1);
        else swiglu_forward_(gate, up, y, m, D, 0);
}

// `grad` becomes what the forward pass gave
INLINE void swiglu_backward_(const void *gate, const void *up, void *grad, void *grad_gate, void *grad_up, int64_t m,
                             int64_t D, const int half) {
    const void *a = at(gate, m * D, half), *b = at(up, m * D, half);
    void *g = at_(grad, m * D, half), *ga = at_(grad_gate, m * D, half), *gb = at_(grad_up, m * D, half);
#pragma omp simd
    for (int64_t d = 0; d < D; d++) {
        float x = get(a, d, half), other = get(b, d, half), pull = get(g, d, half), s = logistic(x);
        float silu = x * s;
        put(gb, d, pull * silu, half);
        put(ga, d, pull * other * (s + silu * (1.0f - s)), half);
        put(g, d, rounded(silu, half) * other, half);
    }
}
void swiglu_backward(const void *gate, const void *up, void *grad, void *grad_gate, void *grad_up, int64_t M, int64_t D,
                     int half, int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) swiglu_backward_(gate, up, grad, grad_gate, grad_up, m, D, 1);
        else swiglu_backward_(gate, up, grad, grad_gate, grad_up, m, D, 0);
}

// ---- rotary positions: [x1 cos - x2 sin, x2 cos + x1 sin]; sign -1 turns back.
// cos, sin: [R, H], those of row m at m mod R; sin's first half is negated.

INLINE void rotate_(const void *x, const void *cos, const void *sin, void *y, int64_t m, int64_t R, int64_t N, int64_t H,
                    float sign, const int half) {
    const void *c = at(cos, m % R * H, half), *s = at(sin, m % R * H + H / 2, half);
    for (int64_t n = 0; n < N; n++) {
        const void *first = at(x, (m * N + n) * H, half), *second = at(first, H / 2, half);
        void *y1 = at_(y, (m * N + n) * H, half), *y2 = at_(y1, H / 2, half);
#pragma omp simd
        for (int64_t h = 0; h < H / 2; h++) {
            float a = get(first, h, half), b = get(second, h, half), k = get(c, h, half), z = sign * get(s, h, half);
            put(y1, h, rounded(a * k, half) - b * z, half);
            put(y2, h, rounded(b * k, half) + a * z, half);
        }
    }
}
void rotate_heads(const void *x, const void *cos, const void *sin, void *y, int64_t M, int64_t R, int64_t N, int64_t H,
                  float sign, int half, int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) rotate_(x, cos, sin, y, m, R, N, H, sign, 1);
        else rotate_(x, cos, sin, y, m, R, N, H, sign, 0);
}

// ---- log-softmax of logits / temperature, read at one target a row ----

// logp, entropy and the log of the sum of exponentials, of each row
INLINE void read_rows_(const void *logits, const int64_t *target, float sharpness, float *logp, float *entropy, float *lse,
                       int64_t m, int64_t V, const int half) {
    const void *row = at(logits, m * V, half);
    float most = -INFINITY, total = 0.0f, mean = 0.0f;
#pragma omp simd reduction(max : most)
    for (int64_t v = 0; v < V; v++) {
        float value = get(row, v, half);
        most = value > most ? value : most;
    }
    most *= sharpness;
#pragma omp simd reduction(+ : total, mean)
    for (int64_t v = 0; v < V; v++) {
        float z = get(row, v, half) * sharpness - most, e = exponential(z);
        total += e;
        mean += e * z;
    }
    float log_total = logf(total);
    lse[m] = most + log_total;
    logp[m] = get(row, target[m], half) * sharpness - lse[m];
    entropy[m] = log_total - mean / total;
}
void read_rows(const void *logits, const int64_t *target, float sharpness, float *logp, float *entropy, float *lse,
               int64_t M, int64_t V, int half, int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) read_rows_(logits, target, sharpness, logp, entropy, lse, m, V, 1);
        else read_rows_(logits, target, sharpness, logp, entropy, lse, m, V, 0);
}

// The logits' gradient for that of each logp; `out` may be `logits`
INLINE void pull_rows_(const void *logits, void *out, const int64_t *target, float sharpness, const float *lse,
                       const float *grad, int64_t m, int64_t V, const int half) {
    const void *row = at(logits, m * V, half);
    void *to = at_(out, m * V, half);
    float pull = grad[m] * sharpness, off = lse[m];
    float own = pull * (1.0f - exponential(get(row, target[m], half) * sharpness - off));
#pragma omp simd
    for (int64_t v = 0; v < V; v++) put(to, v, -pull * exponential(get(row, v, half) * sharpness - off), half);
    put(to, target[m], own, half);
}
void pull_rows(const void *logits, void *out, const int64_t *target, float sharpness, const float *lse, const float *grad,
               int64_t M, int64_t V, int half, int threads) {
    ROWS for (int64_t m = 0; m < M; m++)
        if (half) pull_rows_(logits, out, target, sharpness, lse, grad, m, V, 1);
        else pull_rows_(logits, out, target, sharpness, lse, grad, m, V, 0);
}

// ---- Two sums of a tensor's bits from its place `first` on, modulo 2^64: they stand for the tensor in a digest ----

INLINE void sum_bits_(const void *x, int64_t from, int64_t to, int64_t first, uint64_t *sums, const int half) {
    uint64_t plain = 0, weighted = 0;
#pragma omp simd reduction(+ : plain, weighted)
    for (int64_t i = from; i < to; i++) {
        uint64_t bits = half ? (int64_t)((const int16_t *)x)[i] : (int64_t)((const int32_t *)x)[i];
        plain += bits;
        weighted += (bits * bits + bits) * (uint64_t)(2 * (first + i) + 1);
    }
    sums[0] += plain;
    sums[1] += weighted;
}
void sum_bits(const void *x, int64_t n, int64_t first, int64_t *sums, int half, int threads) {
    uint64_t found[2] = {0};
#pragma omp parallel for reduction(+ : found) num_threads(threads) if (threads > 1)
    for (int64_t from = 0; from < n; from += PIECE)
        if (half) sum_bits_(x, from, END(from), first, found, 1);
        else sum_bits_(x, from, END(from), first, found, 0);
    sums[0] += (int64_t)found[0];
    sums[1] += (int64_t)found[1];
}

// ---- AdamW (Loshchilov and Hutter 2019, algorithm 2) on n numbers; `lower` has the other halves of weights in bfloat16,
// or is NULL where weights are float32. Moments are as `narrow_moments` says, gradients as `half`. ----

INLINE void adamw_(void *weight, int16_t *lower, void *first, void *second, const void *grad, int64_t from, int64_t to,
                   float rate, float kept, float beta1, float beta2, float eps, float root2, const int half,
                   const int halves, const int narrow_moments) {
#pragma omp simd
    for (int64_t i = from; i < to; i++) {
        float w = halves ? from_bits(((uint32_t)((uint16_t *)weight)[i] << 16) + (uint32_t)(int32_t)lower[i])
                         : ((float *)weight)[i];
        float g = get(grad, i, half), m = get(first, i, narrow_moments), v = get(second, i, narrow_moments);
        m += (g - m) * (1.0f - beta1);
        v = v * beta2 + g * g * (1.0f - beta2);
        w = w * kept - rate * m / (sqrtf(v) * root2 + eps);
        put(first, i, m, narrow_moments);
        put(second, i, v, narrow_moments);
        if (halves) {
            uint32_t bits = to_bits(w), upper = (uint32_t)((int32_t)(bits + 0x8000) >> 16);
            ((uint16_t *)weight)[i] = (uint16_t)upper;
            lower[i] = (int16_t)(bits - (upper << 16));
        } else ((float *)weight)[i] = w;
    }
}
void adamw(void *weight, int16_t *lower, void *first, void *second, const void *grad, int64_t n, float rate, float kept,
           float beta1, float beta2, float eps, float root2, int64_t narrow_moments, int64_t half, int64_t threads) {
#define ADAMW(g, h, m) \
    adamw_(weight, lower, first, second, grad, from, END(from), rate, kept, beta1, beta2, eps, root2, g, h, m)
    ROWS for (int64_t from = 0; from < n; from += PIECE)
        if (half && lower && narrow_moments) ADAMW(1, 1, 1);
        else if (half && lower) ADAMW(1, 1, 0);
        else if (lower && narrow_moments) ADAMW(0, 1, 1);
        else if (lower) ADAMW(0, 1, 0);
        else ADAMW(0, 0, 1);
}
