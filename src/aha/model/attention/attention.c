// Attention of a training step on a CPU, forward and backward: causal, over sequences that may share a beginning.
//
// N query heads, K key/value heads, H width of queries and keys, W of values; S keys that a sequence sees. A family is a
// sequence and those that continue it, each apart from the others: spans [first token, tokens], the root's first.
// Everything that is multiplied is made of 32-bit words: one float32, or two neighbouring bfloat16 (half = 1); sums and
// softmax are float32. Query heads that share keys are lanes of one vector, NR of (token, head) at a time, so that a row
// of scores is what all of them give one key. A row's numbers do not depend on other sequences, nor on the threads.
#include "vectors.h"

#define UNROLL _Pragma("GCC unroll 16")

typedef struct {
    const void *q, *k, *v, *cos, *sin;  // [tokens, N or K, H or W]; cos and sin [R, H] or NULL, those of token t at t mod R
    const int64_t *span, *family;       // [spans, 2]; the number of each family's first span, and of all
    int64_t R, N, K, H, W;
    void *out;                          // [tokens, N, W]
    float *lse;                         // [tokens, N]: log of the sum of a row's exponentials
    const void *grad;                   // of out
    void *grad_q, *grad_k, *grad_v;
} Call;

typedef struct {  // what one thread works with
    word *keys, *values;       // as the left side of scores: [S / MR][words][MR]
    word *key_pairs, *value_pairs;  // as the left side of what is read: [words of S][H or W]
    word *query, *pull;        // NR lanes of queries and of out's gradient, turned over: [words][NR]
    word *query_pairs, *pull_pairs;  // and as they are: [words of NR][width]
    float *scores, *pulls;     // [S][NR]: scores, then weights; their gradients
    word *weights, *slopes, *slope_pairs;  // the same in words: [S][words of NR]; [words of S][NR]
    float *lanes, *read;       // [NR][width]; [width][NR]
    float *grad_k, *grad_v;    // [S][width]
} Scratch;

INLINE int64_t ceil_to(int64_t n, int64_t of) { return (n + of - 1) / of * of; }
INLINE int64_t wide(int64_t n) { return ceil_to(n, VL); }
INLINE int64_t words_of(const int half, int64_t numbers) { return half ? (numbers + 1) / 2 : numbers; }
INLINE void put_halves(void *to, vf x) {
#ifdef __AVX512BF16__
    __m256bh own = _mm512_cvtneps_pbh((__m512)x);
    memcpy(to, &own, 32);
#else
    *(vh *)to = to_halves(x);
#endif
}
INLINE vu pairs_of(vf low, vf high) {  // lane by lane one word of both
#ifdef __AVX512BF16__
    vh a, b;
    put_halves(&a, low);
    put_halves(&b, high);
    return __builtin_convertvector(a, vu) | __builtin_convertvector(b, vu) << 16;
#else
    return halves_of(low) | halves_of(high) << 16;
#endif
}
INLINE vf get(const int half, const void *x, int64_t i) {
    return half ? (vf)(__builtin_convertvector(*(const vh *)((const uint16_t *)x + i), vu) << 16) : *(const vf *)((const float *)x + i);
}
INLINE float get_one(const int half, const void *x, int64_t i) {
    return half ? as_float((word)((const uint16_t *)x)[i] << 16) : ((const float *)x)[i];
}
INLINE void put_one(const int half, void *x, int64_t i, float value) {
    vf v = (vf){0} + value;
    if (half) ((uint16_t *)x)[i] = (uint16_t)halves_of(v)[0];
    else ((float *)x)[i] = value;
}

// ---- the one product: into [rows, C vectors] = (into +) a b; a's rows lie `next` words apart, b's rows and into's VL C or ld

INLINE void tile(const int half, const int rows, const int C, const word *a, const int64_t next, int64_t step,
                 const word *b, int64_t ldb, int64_t words, float *into, int64_t ld, const int add) {
    vf sum[MR][2];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < C; c++) sum[r][c] = add ? *(vf *)(into + r * ld + c * VL) : (vf){0};
    for (int64_t i = 0; i < words; i++) {
        vu right[2];
        UNROLL for (int c = 0; c < C; c++) right[c] = *(const vu *)(b + i * ldb + c * VL);
        UNROLL for (int r = 0; r < rows; r++) {
            word left = a[i * step + r * next];
            UNROLL for (int c = 0; c < C; c++) sum[r][c] = dot(half, sum[r][c], left, right[c]);
            __asm__ volatile("" ::: "memory");  // or all rows are read first, and the sums leave their registers
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < C; c++) *(vf *)(into + r * ld + c * VL) = sum[r][c];
}

// scores [S][NR] of keys or values in panels
INLINE void against(const int half, const word *panels, int64_t width, const word *lanes, int64_t S, float *scores) {
    int64_t words = words_of(half, width);
    for (int64_t s = 0; s < S; s += MR)
        tile(half, MR, 2, panels + s * words, 1, MR, lanes, NR, words, scores + s * NR, NR, 0);
}

// read [width][NR]: the sum over keys of what they hold times each lane's weight
INLINE void gather(const int half, const word *pairs, int64_t width, const word *weights, int64_t S, float *read) {
    int64_t words = words_of(half, S);
    for (int64_t w = 0; w < width; w += MR) {
        switch (width - w) {
#define GATHER(rows) case rows: tile(half, rows, 2, pairs + w, 1, width, weights, NR, words, read + w * NR, NR, 0); break;
            GATHER(1) GATHER(2) GATHER(3) GATHER(4) GATHER(5)
#if MR > 6
            GATHER(6) GATHER(7) GATHER(8) GATHER(9) GATHER(10) GATHER(11) GATHER(12) GATHER(13)
#endif
        default: tile(half, MR, 2, pairs + w, 1, width, weights, NR, words, read + w * NR, NR, 0);
        }
    }
}

// grad [S][width] += the sum over lanes of a key's weight times what the lane holds
INLINE void scatter(const int half, const word *weights, const word *pairs, int64_t width, int64_t S, float *grad) {
    const int64_t words = half ? NR / 2 : NR;
    for (int64_t s = 0; s < S; s += MR) {
        const word *from = weights + s * words;
        float *to = grad + s * width;
        int64_t w = 0;
        for (; w + NR <= width; w += NR) tile(half, MR, 2, from, words, 1, pairs + w, width, words, to + w, width, 1);
        if (w < width) tile(half, MR, 1, from, words, 1, pairs + w, width, words, to + w, width, 1);
    }
}

// ---- from rows to what is multiplied, and back

INLINE void turn_over(const word *from, int64_t ldf, word *to, int64_t ldt) {  // VL x VL
    vu x[VL], lane;
    UNROLL for (int i = 0; i < VL; i++) { x[i] = *(const vu *)(from + i * ldf); lane[i] = (word)i; }
    UNROLL for (unsigned step = 1; step < VL; step *= 2) {
        vu odd = -((lane & step) >> __builtin_ctz(step)), low = (odd & (VL + lane - step)) | (~odd & lane);
        vu high = (odd & (VL + lane)) | (~odd & (lane + step));
        UNROLL for (unsigned i = 0; i < VL; i++)
            if (!(i & step)) {
                vu a = x[i], b = x[i + step];
                x[i] = __builtin_shuffle(a, b, low);
                x[i + step] = __builtin_shuffle(a, b, high);
            }
    }
    UNROLL for (int i = 0; i < VL; i++) *(vu *)(to + i * ldt) = x[i];
}

// [NR][wide(width)] to [words][NR]
INLINE void to_lanes(const int half, float *rows, int64_t width, word *lanes) {
    int64_t ld = wide(width), words = words_of(half, width);
    word packed[NR * VL];
    for (int64_t i = 0; i < words; i += VL) {
        const word *from = (const word *)rows + i;
        if (half) {  // the words of 2 VL numbers of each row
            for (int r = 0; r < NR; r++) {
                put_halves(packed + r * VL, *(vf *)(rows + r * ld + 2 * i));
                if (2 * i + VL < ld) put_halves(packed + r * VL + VL / 2, *(vf *)(rows + r * ld + 2 * i + VL));
                else memset(packed + r * VL + VL / 2, 0, 2 * VL);
            }
            from = packed;
        }
        for (int part = 0; part < 2; part++)
            turn_over(from + part * VL * (half ? VL : ld), half ? VL : ld, lanes + i * NR + part * VL, NR);
    }
}

// [width][NR] to [NR][wide(width)]
INLINE void from_lanes(const float *read, int64_t width, float *rows) {
    for (int64_t i = 0; i < width; i += VL)
        for (int part = 0; part < 2; part++)
            turn_over((const word *)read + i * NR + part * VL, NR, (word *)rows + part * VL * wide(width) + i, wide(width));
}

INLINE void to_panels(const int half, const float *row, int64_t width, int64_t s, word *panels) {
    int64_t words = words_of(half, width);
    word *to = panels + s / MR * MR * words + s % MR;
    for (int64_t i = 0; i < width; i += VL) {
        union { word u[VL]; uint16_t h[2 * VL]; } own;
        if (half) put_halves(&own, *(const vf *)(row + i));
        else memcpy(&own, row + i, 4 * VL);
        int64_t first = words_of(half, i), left = words - first, most = words_of(half, VL);
        for (int j = 0; j < (left < most ? left : most); j++) to[(first + j) * MR] = own.u[j];
    }
}

INLINE void to_pairs(const int half, const float *row, int64_t width, int64_t s, word *pairs, int64_t ld) {
    word *to = pairs + (half ? s / 2 : s) * ld;
    int64_t i = 0;
    if (!half) memcpy(to, row, (size_t)(4 * width));
    else for (; i < width; i += VL) {
        vu own = halves_of(*(const vf *)(row + i));
        if (s % 2) own = (*(vu *)(to + i) & 0xffff) | own << 16;
        memcpy(to + i, &own, (size_t)(width - i < VL ? 4 * (width - i) : 4 * VL));
    }
}

// A head of a token as float32, zeros up to wide(width), turned by its position; `sign` -1 turns back.
INLINE void rotate(const int half, float *row, int64_t H, const void *cos, const void *sin, int64_t at, float sign) {
#pragma omp simd
    for (int64_t h = 0; h < H / 2; h++) {
        float a = row[h], b = row[h + H / 2], c = get_one(half, cos, at + h), s = sign * get_one(half, sin, at + h + H / 2);
        row[h] = a * c - b * s;
        row[h + H / 2] = b * c + a * s;
    }
}
INLINE void fetch(const int half, const Call *call, const void *x, int64_t token, int64_t heads, int64_t head, int64_t width,
                  int turned, float *row) {
    int64_t at = (token * heads + head) * width, i = 0;
    for (; i + VL <= width; i += VL) *(vf *)(row + i) = get(half, x, at + i);
    for (; i < wide(width); i++) row[i] = i < width ? get_one(half, x, at + i) : 0.0f;
    if (turned && call->cos) rotate(half, row, width, call->cos, call->sin, token % call->R * width, 1.0f);
}
INLINE void hand_out(const int half, const Call *call, float *row, void *x, int64_t token, int64_t heads, int64_t head,
                     int64_t width, int turned) {
    int64_t at = (token * heads + head) * width, i = 0;
    if (turned && call->cos) rotate(half, row, width, call->cos, call->sin, token % call->R * width, -1.0f);
    for (; i + VL <= width; i += VL)
        if (half) put_halves((uint16_t *)x + at + i, *(vf *)(row + i));
        else *(vf *)((float *)x + at + i) = *(vf *)(row + i);
    for (; i < width; i++) put_one(half, x, at + i, row[i]);
}

// Lanes r .. r + NR of a span: their heads of x as rows; the last key that each may see. What is no lane is 0.
INLINE void fetch_lanes(const int half, const Call *c, const void *x, int64_t start, int64_t T, int64_t k, int64_t r,
                        int64_t width, int turned, float *rows) {
    int64_t G = c->N / c->K;
    for (int64_t lane = 0; lane < NR; lane++, r++)
        if (r < T * G) fetch(half, c, x, start + r / G, c->N, k * G + r % G, width, turned, rows + lane * wide(width));
        else memset(rows + lane * wide(width), 0, (size_t)(4 * wide(width)));
}
INLINE void hand_out_lanes(const int half, const Call *c, float *rows, void *x, int64_t start, int64_t T, int64_t k, int64_t r,
                           int64_t width, int turned) {
    int64_t G = c->N / c->K;
    for (int64_t lane = 0; lane < NR && r < T * G; lane++, r++)
        hand_out(half, c, rows + lane * wide(width), x, start + r / G, c->N, k * G + r % G, width, turned);
}
INLINE void last_seen(const Call *c, int64_t P, int64_t T, int64_t r, vi seen[2]) {
    int64_t G = c->N / c->K;
    for (int lane = 0; lane < NR; lane++) {
        int64_t row = r + lane < T * G ? r + lane : T * G - 1;
        seen[lane / VL][lane % VL] = (int32_t)(P + row / G);
    }
}

// ---- one span of one key/value head: P keys of the root, then its own

INLINE void span_forward(const int half, const Call *c, const Scratch *a, int64_t start, int64_t T, int64_t P, int64_t k) {
    int64_t H = c->H, W = c->W, G = c->N / c->K;
    float scale = 1.0f / sqrtf((float)H);
    for (int64_t t = 0; t < T; t++) {
        fetch(half, c, c->k, start + t, c->K, k, H, 1, a->lanes);
        to_panels(half, a->lanes, H, P + t, a->keys);
        fetch(half, c, c->v, start + t, c->K, k, W, 0, a->lanes);
        to_pairs(half, a->lanes, W, P + t, a->value_pairs, W);
    }
    for (int64_t r = 0; r < T * G; r += NR) {
        vi seen[2];
        last_seen(c, P, T, r, seen);
        int64_t all = P + r / G, S = seen[1][VL - 1] + 1;  // all lanes see the keys up to `all`
        fetch_lanes(half, c, c->q, start, T, k, r, H, 1, a->lanes);
        to_lanes(half, a->lanes, H, a->query);
        against(half, a->keys, H, a->query, S, a->scores);
        vf most[2], total[2] = {{0}, {0}};
        for (int i = 0; i < 2; i++) {
            float *x = a->scores + i * VL;
            most[i] = *(vf *)x;
            for (int64_t s = 1; s < S; s++) {
                vf own = *(vf *)(x + s * NR);
                if (s > all) *(vf *)(x + s * NR) = own = pick(seen[i] < (int32_t)s, (vf){0} - INFINITY, own);
                most[i] = pick(own > most[i], own, most[i]);
            }
            if (S % 2) *(vf *)(x + S * NR) = (vf){0} - INFINITY;
            for (int64_t s = 0; s < S; s += 2) {
                vf even = exponential((*(vf *)(x + s * NR) - most[i]) * scale);
                vf odd = exponential((*(vf *)(x + (s + 1) * NR) - most[i]) * scale);
                total[i] = total[i] + even + odd;
                if (half) *(vu *)(a->weights + s / 2 * NR + i * VL) = pairs_of(even, odd);
                else { *(vf *)(x + s * NR) = even; *(vf *)(x + (s + 1) * NR) = odd; }
            }
        }
        gather(half, a->value_pairs, W, half ? a->weights : (word *)a->scores, S, a->read);
        for (int i = 0; i < 2; i++)
            for (int64_t w = 0; w < W; w++) *(vf *)(a->read + w * NR + i * VL) /= total[i];
        from_lanes(a->read, W, a->lanes);
        hand_out_lanes(half, c, a->lanes, c->out, start, T, k, r, W, 0);
        for (int64_t lane = 0; lane < NR && r + lane < T * G; lane++)
            c->lse[(start + (r + lane) / G) * c->N + k * G + (r + lane) % G] =
                most[lane / VL][lane % VL] * scale + logf(total[lane / VL][lane % VL]);
    }
}

INLINE void span_backward(const int half, const Call *c, const Scratch *a, int64_t start, int64_t T, int64_t P, int64_t k) {
    int64_t H = c->H, W = c->W, G = c->N / c->K, Hp = wide(H), Wp = wide(W), words = half ? NR / 2 : NR;
    float scale = 1.0f / sqrtf((float)H);
    for (int64_t t = 0; t < T; t++) {
        fetch(half, c, c->k, start + t, c->K, k, H, 1, a->lanes);
        to_panels(half, a->lanes, H, P + t, a->keys);
        to_pairs(half, a->lanes, H, P + t, a->key_pairs, H);
        fetch(half, c, c->v, start + t, c->K, k, W, 0, a->lanes);
        to_panels(half, a->lanes, W, P + t, a->values);
    }
    memset(a->grad_k + P * Hp, 0, (size_t)(4 * (T + MR) * Hp));
    memset(a->grad_v + P * Wp, 0, (size_t)(4 * (T + MR) * Wp));
    for (int64_t r = 0; r < T * G; r += NR) {
        vi seen[2];
        float lse[NR], along[NR];
        last_seen(c, P, T, r, seen);
        int64_t all = P + r / G, S = seen[1][VL - 1] + 1, end = ceil_to(S, MR);
        fetch_lanes(half, c, c->q, start, T, k, r, H, 1, a->lanes);
        to_lanes(half, a->lanes, H, a->query);
        for (int lane = 0; lane < NR; lane++) to_pairs(half, a->lanes + lane * Hp, Hp, lane, a->query_pairs, Hp);
        fetch_lanes(half, c, c->out, start, T, k, r, W, 0, a->read);
        fetch_lanes(half, c, c->grad, start, T, k, r, W, 0, a->lanes);
        to_lanes(half, a->lanes, W, a->pull);
        for (int lane = 0; lane < NR; lane++) {
            to_pairs(half, a->lanes + lane * Wp, Wp, lane, a->pull_pairs, Wp);
            vf sum = {0};
            for (int64_t w = 0; w < Wp; w += VL) sum += *(vf *)(a->lanes + lane * Wp + w) * *(vf *)(a->read + lane * Wp + w);
            along[lane] = 0.0f;
            for (int i = 0; i < VL; i++) along[lane] += sum[i];
            int64_t row = r + lane;
            lse[lane] = row < T * G ? c->lse[(start + row / G) * c->N + k * G + row % G] : 0.0f;
        }
        against(half, a->keys, H, a->query, S, a->scores);
        against(half, a->values, W, a->pull, S, a->pulls);
        for (int i = 0; i < 2; i++) {
            vf off = *(vf *)(lse + i * VL), own = *(vf *)(along + i * VL);
            for (int64_t s = 0; s < end; s += 2) {
                vf weight[2], slope[2];
                for (int j = 0; j < 2; j++) {
                    float *x = a->scores + (s + j) * NR + i * VL, *y = a->pulls + (s + j) * NR + i * VL;
                    weight[j] = exponential(*(vf *)x * scale - off);
                    slope[j] = *(vf *)y - own;
                    if (s + j > all) {
                        weight[j] = pick(seen[i] < (int32_t)(s + j), (vf){0}, weight[j]);
                        slope[j] = pick(seen[i] < (int32_t)(s + j), (vf){0}, slope[j]);
                    }
                    slope[j] *= weight[j] * scale;
                    if (half) {
                        put_halves((uint16_t *)(a->weights + (s + j) * words) + i * VL, weight[j]);
                        put_halves((uint16_t *)(a->slopes + (s + j) * words) + i * VL, slope[j]);
                    } else { *(vf *)x = weight[j]; *(vf *)y = slope[j]; }
                }
                if (half) *(vu *)(a->slope_pairs + s / 2 * NR + i * VL) = pairs_of(slope[0], slope[1]);
            }
        }
        scatter(half, half ? a->weights : (word *)a->scores, a->pull_pairs, Wp, S, a->grad_v);
        scatter(half, half ? a->slopes : (word *)a->pulls, a->query_pairs, Hp, S, a->grad_k);
        gather(half, a->key_pairs, H, half ? a->slope_pairs : (word *)a->pulls, S, a->read);
        from_lanes(a->read, H, a->lanes);
        hand_out_lanes(half, c, a->lanes, c->grad_q, start, T, k, r, H, 1);
    }
}

INLINE void hand_out_grads(const int half, const Call *c, const Scratch *a, int64_t start, int64_t T, int64_t P, int64_t k) {
    for (int64_t t = 0; t < T; t++) {
        hand_out(half, c, a->grad_k + (P + t) * wide(c->H), c->grad_k, start + t, c->K, k, c->H, 1);
        hand_out(half, c, a->grad_v + (P + t) * wide(c->W), c->grad_v, start + t, c->K, k, c->W, 0);
    }
}

static Scratch allocate(const Call *c, int64_t S, int backward) {
    int64_t most = wide(c->H > c->W ? c->H : c->W), end = ceil_to(S + 1, 2 * MR) + 2 * MR, at = 0;
    char *from = NULL;
    Scratch a;
    for (int pass = 0; pass < 2; pass++) {
        at = 0;
#define PART(name, numbers) a.name = (void *)(from + at); at += ceil_to(4 * (numbers), 64) + 64;
        PART(keys, end * wide(c->H)) PART(lanes, NR * most) PART(read, NR * most) PART(query, NR * most)
        PART(scores, end * NR) PART(weights, end * NR) PART(value_pairs, end * wide(c->W))
        if (backward) {
            PART(values, end * wide(c->W)) PART(key_pairs, end * wide(c->H)) PART(pull, NR * most)
            PART(query_pairs, NR * most) PART(pull_pairs, NR * most) PART(pulls, end * NR) PART(slopes, end * NR)
            PART(slope_pairs, end * NR) PART(grad_k, end * most) PART(grad_v, end * most)
        }
        if (!from) { from = aligned_alloc(64, (size_t)ceil_to(at, 64)); memset(from, 0, (size_t)at); }
    }
    return a;
}

// One thread's share. OpenMP would take its body out of a function and with it from constants, so it takes a call.
INLINE void run(const int half, const int backward, const Call *c, int64_t families, int64_t longest) {
    Scratch a = allocate(c, longest, backward);
#pragma omp for schedule(dynamic)
    for (int64_t task = 0; task < families * c->K; task++) {
        int64_t k = task % c->K, first = c->family[task / c->K], last = c->family[task / c->K + 1], P = 0;
        for (int64_t i = first; i < last; i++) {
            int64_t start = c->span[2 * i], T = c->span[2 * i + 1];
            if (backward) span_backward(half, c, &a, start, T, P, k);
            else span_forward(half, c, &a, start, T, P, k);
            if (i == first) P = T;
            else if (backward) hand_out_grads(half, c, &a, start, T, P, k);
        }
        if (backward) hand_out_grads(half, c, &a, c->span[2 * first], P, 0, k);
    }
    free(a.keys);
}
#define THREADS _Pragma("omp parallel num_threads((int)threads) if (threads > 1)")

// `longest`: the most keys that any span sees
void attend_forward(const Call *c, int64_t families, int64_t longest, int64_t half, int64_t threads) {
    THREADS if (half) run(1, 0, c, families, longest);
    else run(0, 0, c, families, longest);
}
void attend_backward(const Call *c, int64_t families, int64_t longest, int64_t half, int64_t threads) {
    THREADS if (half) run(1, 1, c, families, longest);
    else run(0, 1, c, families, longest);
}
