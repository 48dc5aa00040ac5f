// Few rows by a bf16 weight: out[m][n] = sum_k x[m][k] * w[n][k] + bias[n].
//
// WIDEN turns weights to fp32 in registers: exact products, fp32 sums. DPBF16 rounds the activations to bf16 and uses
// the processor's own bf16 dot product, where the compiler was told that there is one.

#include "rows.h"

namespace {

constexpr int LINE = 32;              // bf16 weights in one cache line
constexpr int PARTS = LINE / (2 * LANES);  // vectors of pairs in it

enum Method : int { WIDEN = 0, DPBF16 = 1 };

// The last, incomplete line of each of NB weight rows, with zeros behind it.
template <int NB>
struct Tail {
    alignas(64) uint16_t weights[NB * LINE] = {};
    Tail(const uint16_t* w, long stride, long count) {
        for (int j = 0; j < NB; j++) std::memcpy(weights + j * LINE, w + j * stride, count * 2);
    }
};

struct Widen {
    const float* x;  // each line as PARTS times: the even values, then the odd ones, as widened weights come out
    long padded;
    const uint16_t* w;
    long k;
    Result result;

    template <int M, int NB>
    static inline __attribute__((always_inline)) void add_line(Floats (&sums)[M][NB], const uint16_t* w, long stride,
                                                               const float* x, long padded) {
        for (int part = 0; part < PARTS; part++) {
            Floats wide[NB];
            for (int j = 0; j < NB; j++) wide[j] = even_bf16(load<Words>(w + j * stride + part * 2 * LANES));
            for (int i = 0; i < M; i++) {
                Floats value = load<Floats>(x + i * padded + part * 2 * LANES);
                for (int j = 0; j < NB; j++) sums[i][j] += wide[j] * value;
            }
            for (int j = 0; j < NB; j++) wide[j] = odd_bf16(load<Words>(w + j * stride + part * 2 * LANES));
            for (int i = 0; i < M; i++) {
                Floats value = load<Floats>(x + i * padded + part * 2 * LANES + LANES);
                for (int j = 0; j < NB; j++) sums[i][j] += wide[j] * value;
            }
        }
    }

    template <int M, int NB>
    void run(long n, long m) const {
        const uint16_t* own = w + n * k;
        const float* values = x + m * padded;
        Floats sums[M][NB] = {};
        const long whole = k / LINE * LINE;
        for (long c = 0; c < whole; c += LINE) {
            if (m == 0)
                for (int j = 0; j < NB; j++) prefetch(own + (j + NB) * k + c);
            add_line<M, NB>(sums, own + c, k, values + c, padded);
        }
        if (whole < k) {
            Tail<NB> tail(own + whole, k, k - whole);
            add_line<M, NB>(sums, tail.weights, LINE, values + whole, padded);
        }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NB; j++) result.put(m + i, n + j, sum_of(sums[i][j]));
    }
};

void deinterleave(const Rows& rows, long m, float* to, long padded) {
    for (long c = 0; c < padded; c++) {
        long in_pairs = c % (2 * LANES), first = c - in_pairs;
        long from = in_pairs < LANES ? first + 2 * in_pairs : first + 2 * (in_pairs - LANES) + 1;
        to[c] = from < rows.k ? rows.at(m, from) : 0.f;
    }
}

#ifdef __AVX512BF16__
struct DotPairs {
    const uint16_t* x;
    long padded;
    const uint16_t* w;
    long k;
    Result result;

    template <int M, int NB>
    static inline __attribute__((always_inline)) void add_line(__m512 (&sums)[M][NB], const uint16_t* w, long stride,
                                                               const uint16_t* x, long padded) {
        __m512bh pairs[NB];
        for (int j = 0; j < NB; j++) pairs[j] = (__m512bh)_mm512_loadu_si512(w + j * stride);
        for (int i = 0; i < M; i++) {
            __m512bh value = (__m512bh)_mm512_loadu_si512(x + i * padded);
            for (int j = 0; j < NB; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], pairs[j], value);
        }
    }

    template <int M, int NB>
    void run(long n, long m) const {
        const uint16_t* own = w + n * k;
        const uint16_t* values = x + m * padded;
        __m512 sums[M][NB];
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NB; j++) sums[i][j] = _mm512_setzero_ps();
        const long whole = k / LINE * LINE;
        for (long c = 0; c < whole; c += LINE) {
            if (m == 0)
                for (int j = 0; j < NB; j++) prefetch(own + (j + NB) * k + c);
            add_line<M, NB>(sums, own + c, k, values + c, padded);
        }
        if (whole < k) {
            Tail<NB> tail(own + whole, k, k - whole);
            add_line<M, NB>(sums, tail.weights, LINE, values + whole, padded);
        }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NB; j++) result.put(m + i, n + j, sum_of((Floats)sums[i][j]));
    }
};

void round_to_bf16(const Rows& rows, long m, uint16_t* to, long padded) {
    const Result as_bf16{to, padded, 1, nullptr, 0};
    for (long c = 0; c < padded; c++) as_bf16.put(m, c, c < rows.k ? rows.at(m, c) : 0.f);
}
#endif

}  // namespace

extern "C" {

// 1: products by widening; 2: also by the processor's bf16 dot product.
int kosmos_bf16_methods() {
#ifdef __AVX512BF16__
    return 2;
#else
    return 1;
#endif
}

// Returns 0, or 1 when there is no memory for the rearranged activations.
int kosmos_linear_bf16(const void* x, int x_is_bf16, const uint16_t* w, const void* bias, int bias_is_bf16, void* out,
                       int out_is_bf16, long num_x, long num_out, long k, int method) {
    const Rows rows{x, x_is_bf16, num_x, k};
    const Result result{out, num_out, out_is_bf16, bias, bias_is_bf16};
    const long padded = (k + LINE - 1) / LINE * LINE;
    void* memory = scratch(static_cast<size_t>(num_x) * padded * 4);
    if (!memory) return 1;
#ifdef __AVX512BF16__
    if (method == DPBF16) {
        uint16_t* pairs = static_cast<uint16_t*>(memory);
        for (long m = 0; m < num_x; m++) round_to_bf16(rows, m, pairs, padded);
        multiply(DotPairs{pairs, padded, w, k, result}, num_out, num_x, k * 2);
        return 0;
    }
#endif
    (void)method;
    float* wide = static_cast<float*>(memory);
#pragma omp parallel for if (num_x > 16)
    for (long m = 0; m < num_x; m++) deinterleave(rows, m, wide + m * padded, padded);
    multiply(Widen{wide, padded, w, k, result}, num_out, num_x, k * 2);
    return 0;
}

}  // extern "C"
