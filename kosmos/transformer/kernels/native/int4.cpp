// Rows untouched in fp32 times a 4-bit weight: value = q * scale + base, q in 0..15, a scale and a base for each GROUP.
//
// Layout: 16 bytes a group, byte j holding q[j] in its low half and q[j + 16] in its high half; beside them `steps`, a
// word a group, with the scale in its upper half and the base in its lower half, both bf16.

#include "rows.h"

namespace {

constexpr int GROUP = 32;
constexpr int BYTES = GROUP / 2;
constexpr int PARTS = BYTES / LANES;
constexpr int AHEAD = 256;  // groups fetched before they are needed: 4 KB

struct Quarters {
    const float* x;      // [rows][groups * GROUP], zeros behind k
    const float* sums_x;  // [rows][padded_groups], of each group
    const uint8_t* w;
    const uint32_t* steps;
    long groups, padded_groups;
    Result result;

    template <int M, int NB>
    void run(long n, long m) const {
        for (int j = 0; j < NB; j++) one_output<M>(n + j, m);
    }

    template <int M>
    void one_output(long n, long m) const {
        const uint8_t* own = w + n * groups * BYTES;
        const uint32_t* own_steps = steps + n * groups;
        const float* values = x + m * groups * GROUP;
        Floats sums[M] = {};
        for (long g = 0; g < groups; g++) {
            if (m == 0) prefetch(own + (g + AHEAD) * BYTES);
            Floats inside[M] = {};
#pragma GCC unroll 2
            for (int part = 0; part < PARTS; part++) {
                const Ints raw = widened(own + g * BYTES + part * LANES);
                const Floats low = __builtin_convertvector(raw & 15, Floats);
                const Floats high = __builtin_convertvector(raw >> 4, Floats);
                const float* here = values + g * GROUP + part * LANES;
#pragma GCC unroll 8
                for (int i = 0; i < M; i++) {
                    inside[i] += low * load<Floats>(here + i * groups * GROUP);
                    inside[i] += high * load<Floats>(here + i * groups * GROUP + BYTES);
                }
            }
            const Floats scale = all(float_of(own_steps[g] & 0xffff0000u));
#pragma GCC unroll 8
            for (int i = 0; i < M; i++) sums[i] += inside[i] * scale;
        }
        for (int i = 0; i < M; i++) result.put(m + i, n, sum_of(sums[i]) + of_bases(own_steps, m + i));
    }

    // Each group's base counts once for every input of the group.
    float of_bases(const uint32_t* own_steps, long m) const {
        const float* inputs = sums_x + m * padded_groups;
        Floats sums = {};
        long g = 0;
        for (; g + LANES <= groups; g += LANES) sums += even_bf16(load<Words>(own_steps + g)) * load<Floats>(inputs + g);
        float sum = sum_of(sums);
        for (; g < groups; g++) sum += float_of(own_steps[g] << 16) * inputs[g];
        return sum;
    }
};

void widen_row(const Rows& rows, long m, float* to, float* sums, long groups) {
    for (long g = 0; g < groups; g++) {
        float sum = 0.f;
        for (long c = g * GROUP; c < (g + 1) * GROUP; c++) {
            to[c] = c < rows.k ? rows.at(m, c) : 0.f;
            sum += to[c];
        }
        sums[g] = sum;
    }
}

}  // namespace

extern "C" {

// Returns 0, or 1 when there is no memory for the widened activations.
int kosmos_linear_int4(const void* x, int x_is_bf16, const uint8_t* w, const uint32_t* steps, const void* bias,
                       int bias_is_bf16, void* out, int out_is_bf16, long num_x, long num_out, long k) {
    const Rows rows{x, x_is_bf16, num_x, k};
    const Result result{out, num_out, out_is_bf16, bias, bias_is_bf16};
    const long groups = (k + GROUP - 1) / GROUP, padded_groups = (groups + LANES - 1) / LANES * LANES;
    float* wide = static_cast<float*>(scratch(static_cast<size_t>(num_x) * (groups * GROUP + padded_groups) * 4));
    if (!wide) return 1;
    float* sums_x = wide + num_x * groups * GROUP;
#pragma omp parallel for if (num_x > 16)
    for (long m = 0; m < num_x; m++) widen_row(rows, m, wide + m * groups * GROUP, sums_x + m * padded_groups, groups);
    multiply(Quarters{wide, sums_x, w, steps, groups, padded_groups, result}, num_out, num_x, groups * (BYTES + 4));
    return 0;
}

}  // extern "C"
