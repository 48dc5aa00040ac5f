// Rows rounded to int8, each by its own scale, times an int8 weight with a scale an output; whole-number sums are exact.

#include "rows.h"

namespace {

constexpr int LINE = 64;                   // weights in one cache line
constexpr int PARTS = LINE / (4 * LANES);  // vectors in it
typedef int8_t Bytes __attribute__((vector_size(LANES * 4)));

// sum + the dot products of four neighbouring bytes a lane.
#if defined(__AVX512VNNI__)
constexpr int SHIFT = 128;  // the instruction multiplies unsigned by signed: activations are stored 128 higher
inline Ints dot_of_four(Ints sum, Bytes x, Bytes w) {
    return (Ints)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}
#else
constexpr int SHIFT = 0;
inline Ints dot_of_four(Ints sum, Bytes x, Bytes w) {
    // unsigned times signed again, so the sign moves from w to x; two products of at most 127 * 127 fit into 16 bits
    __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8((__m256i)w), _mm256_sign_epi8((__m256i)x, (__m256i)w));
    return sum + (Ints)_mm256_madd_epi16(products, _mm256_set1_epi16(1));
}
#endif

struct Quantised {
    const int8_t* x;
    long padded;
    const float* row_scale;
    const int8_t* w;
    const float* weight_scale;
    const int32_t* weight_sum;
    long k;
    Result result;

    template <int M, int NB>
    static inline __attribute__((always_inline)) void add_line(Ints (&sums)[M][NB], const int8_t* w, long stride,
                                                               const int8_t* x, long padded) {
        for (int part = 0; part < PARTS; part++) {
            Bytes weights[NB];
            for (int j = 0; j < NB; j++) weights[j] = load<Bytes>(w + j * stride + part * 4 * LANES);
            for (int i = 0; i < M; i++) {
                Bytes value = load<Bytes>(x + i * padded + part * 4 * LANES);
                for (int j = 0; j < NB; j++) sums[i][j] = dot_of_four(sums[i][j], value, weights[j]);
            }
        }
    }

    template <int M, int NB>
    void run(long n, long m) const {
        const int8_t* own = w + n * k;
        const int8_t* values = x + m * padded;
        Ints sums[M][NB] = {};
        const long whole = k / LINE * LINE;
        for (long c = 0; c < whole; c += LINE) {
            if (m == 0)
                for (int j = 0; j < NB; j++) prefetch(own + (j + NB) * k + c);
            add_line<M, NB>(sums, own + c, k, values + c, padded);
        }
        if (whole < k) {
            alignas(64) int8_t tail[NB * LINE] = {};
            for (int j = 0; j < NB; j++) std::memcpy(tail + j * LINE, own + j * k + whole, k - whole);
            add_line<M, NB>(sums, tail, LINE, values + whole, padded);
        }
        for (int i = 0; i < M; i++)
            for (int j = 0; j < NB; j++) {
                int32_t sum = sum_of(sums[i][j]) - SHIFT * weight_sum[n + j];
                result.put(m + i, n + j, static_cast<float>(sum) * weight_scale[n + j] * row_scale[m + i]);
            }
    }
};

// One row as int8 (SHIFT higher); returns its scale, which is not finite if a value is not.
float round_to_bytes(const Rows& rows, long m, int8_t* to, long padded) {
    float largest = 0.f, visible = 0.f;
    for (long c = 0; c < rows.k; c++) {
        float value = rows.at(m, c), size = value < 0.f ? -value : value;
        largest = size > largest ? size : largest;
        visible += value * 0.f;
    }
    const float scale = largest / 127.f, inverse = scale > 0.f ? 1.f / scale : 0.f;
    for (long first = 0; first < padded; first += LANES) {
        Floats values = {};
        for (int i = 0; i < LANES && first + i < rows.k; i++) values[i] = rows.at(m, first + i);
        Ints steps = whole(rounded(values * inverse)) + SHIFT;
        for (int i = 0; i < LANES; i++) to[first + i] = static_cast<int8_t>(steps[i]);
    }
    return scale + visible;
}

}  // namespace

extern "C" {

// Returns 0, or 1 when there is no memory for the rounded activations.
int kosmos_linear_int8(const void* x, int x_is_bf16, const int8_t* w, const float* weight_scale,
                       const int32_t* weight_sum, const void* bias, int bias_is_bf16, void* out, int out_is_bf16,
                       long num_x, long num_out, long k) {
    const Rows rows{x, x_is_bf16, num_x, k};
    const Result result{out, num_out, out_is_bf16, bias, bias_is_bf16};
    const long padded = (k + LINE - 1) / LINE * LINE;
    int8_t* values = static_cast<int8_t*>(scratch(static_cast<size_t>(num_x) * (padded + sizeof(float))));
    if (!values) return 1;
    float* row_scale = reinterpret_cast<float*>(values + num_x * padded);
#pragma omp parallel for if (num_x > 16)
    for (long m = 0; m < num_x; m++) row_scale[m] = round_to_bytes(rows, m, values + m * padded, padded);
    multiply(Quantised{values, padded, row_scale, w, weight_scale, weight_sum, k, result}, num_out, num_x, k);
    return 0;
}

}  // extern "C"
