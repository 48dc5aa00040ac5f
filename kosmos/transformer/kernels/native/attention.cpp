// One new row of each of many cached sequences attends to its own pages: softmax(q k) v, row by row and head by head.
//
// Keys and values are read where they lie, whatever pages a sequence has, so there is no gathering, padding or mask, and
// a row's result cannot depend on its neighbours.

#include <cmath>

#include "rows.h"

namespace {

struct Paged {
    const float* query;   // [rows][blocks][heads][width]: as it meets the keys of each rotation block
    const float* keys;    // [slots][heads][width]
    const float* values;
    const int32_t* pages;  // [rows][most_pages]
    const int32_t* lengths;  // keys of each row
    long most_pages, page_size, pages_a_block, blocks, heads, width;
    float scale;

    float dot(const float* a, const float* b) const {
        Floats sums = {};
        long c = 0;
        for (; c + LANES <= width; c += LANES) sums += load<Floats>(a + c) * load<Floats>(b + c);
        float sum = sum_of(sums);
        for (; c < width; c++) sum += a[c] * b[c];
        return sum;
    }

    void add(float* to, const float* from, float weight) const {
        long c = 0;
        for (; c + LANES <= width; c += LANES) store(to + c, load<Floats>(to + c) + load<Floats>(from + c) * weight);
        for (; c < width; c++) to[c] += from[c] * weight;
    }

    // work(t, where) for every key t of a row: where it starts in `keys` and `values`
    template <typename Work>
    void for_keys(long row, long head, Work&& work) const {
        for (long t = 0; t < lengths[row]; t += page_size) {
            const long page = pages[row * most_pages + t / page_size];
            const long last = t + page_size < lengths[row] ? page_size : lengths[row] - t;
            for (long slot = 0; slot < last; slot++)
                work(t + slot, ((page * page_size + slot) * heads + head) * width);
        }
    }

    // Scores become weights that add up to the returned sum; behind the last they are 0.
    float weigh(float* scores, long count) const {
        const long padded = (count + LANES - 1) / LANES * LANES;
        for (long t = count; t < padded; t++) scores[t] = -INFINITY;
        Floats largest = load<Floats>(scores), total = {};
        for (long t = 0; t < padded; t += LANES) largest = larger(largest, load<Floats>(scores + t));
        const float top = largest_of(largest);
        for (long t = 0; t < padded; t += LANES) {
            Floats weights = exponential(load<Floats>(scores + t) - top);
            store(scores + t, weights);
            total += weights;
        }
        return sum_of(total);
    }

    void attend(long row, long head, float* scores, float* out) const {
        const float* own = query + row * blocks * heads * width + head * width;
        const long keys_a_block = pages_a_block * page_size;
        for_keys(row, head, [&](long t, long where) {
            scores[t] = dot(own + t / keys_a_block * heads * width, keys + where) * scale;
        });
        const float total = weigh(scores, lengths[row]);
        for (long c = 0; c < width; c++) out[c] = 0.f;
        for_keys(row, head, [&](long t, long where) { add(out, values + where, scores[t] / total); });
    }
};

}  // namespace

extern "C" {

// Returns 0, or 1 when a thread found no memory for its scores.
int kosmos_attend_paged(const float* query, const float* keys, const float* values, const int32_t* pages,
                        const int32_t* lengths, float* out, long rows, long most_pages, long page_size,
                        long pages_a_block, long blocks, long heads, long width, float scale) {
    const Paged paged{query, keys, values, pages, lengths, most_pages, page_size, pages_a_block,
                      blocks, heads, width, scale};
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 4) collapse(2)
    for (long row = 0; row < rows; row++)
        for (long head = 0; head < heads; head++) {
            float* scores = static_cast<float*>(scratch((lengths[row] + LANES) * sizeof(float)));
            if (scores) paged.attend(row, head, scores, out + (row * heads + head) * width);
            else failed = 1;
        }
    return failed;
}

}  // extern "C"
