// Few rows by an fp32 weight: out[m][n] = sum_k x[m][k] * w[n][k] + bias[n], every sum in one fixed order.

#include "rows.h"

namespace {

constexpr int LINE = 16;             // weights in one cache line
constexpr int PARTS = LINE / LANES;  // vectors in it

struct Exact {
    const float* x;  // [rows][padded], zeros behind k
    long padded;
    const float* w;
    long k;
    Result result;

    template <int M, int NB>
    static inline __attribute__((always_inline)) void add_line(Floats (&sums)[M][NB], const float* w, long stride,
                                                               const float* x, long padded) {
        for (int part = 0; part < PARTS; part++) {
            Floats weights[NB];
            for (int j = 0; j < NB; j++) weights[j] = load<Floats>(w + j * stride + part * LANES);
            for (int i = 0; i < M; i++) {
                Floats value = load<Floats>(x + i * padded + part * LANES);
                for (int j = 0; j < NB; j++) sums[i][j] += weights[j] * value;
            }
        }
    }

    template <int M, int NB>
    void run(long n, long m) const {
        const float* own = w + n * k;
        const float* values = x + m * padded;
        Floats sums[M][NB] = {};
        const long whole = k / LINE * LINE;
        for (long c = 0; c < whole; c += LINE) {
            if (m == 0)
                for (int j = 0; j < NB; j++) prefetch(own + (j + NB) * k + c);
            add_line<M, NB>(sums, own + c, k, values + c, padded);
        }
        if (whole < k) {
            alignas(64) float tail[NB * LINE] = {};
            for (int j = 0; j < NB; j++) std::memcpy(tail + j * LINE, own + j * k + whole, (k - whole) * sizeof(float));
            add_line<M, NB>(sums, tail, LINE, values + whole, padded);
        }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NB; j++) result.put(m + i, n + j, sum_of(sums[i][j]));
    }
};

}  // namespace

extern "C" {

// Returns 0, or 1 when there is no memory for the rows behind one another.
int kosmos_linear_fp32(const void* x, int x_is_bf16, const float* w, const void* bias, int bias_is_bf16, void* out,
                       int out_is_bf16, long num_x, long num_out, long k) {
    const Rows rows{x, x_is_bf16, num_x, k};
    const Result result{out, num_out, out_is_bf16, bias, bias_is_bf16};
    const long padded = (k + LINE - 1) / LINE * LINE;
    float* wide = static_cast<float*>(scratch(static_cast<size_t>(num_x) * padded * sizeof(float)));
    if (!wide) return 1;
    for (long m = 0; m < num_x; m++)
        for (long c = 0; c < padded; c++) wide[m * padded + c] = c < k ? rows.at(m, c) : 0.f;
    multiply(Exact{wide, padded, w, k, result}, num_out, num_x, k * static_cast<long>(sizeof(float)));
    return 0;
}

}  // extern "C"
