// One new row of each of many cached sequences attends to its own pages: softmax(q k) v, row by row and head by head.
//
// Keys and values are read where they lie, whatever pages a sequence has, so there is no gathering, padding or mask, and
// a row's result cannot depend on its neighbours. Keys are cut into parts of fixed length, which are joined in order.

#include <cmath>

#include "rows.h"

namespace {

constexpr int TOGETHER = 4;       // values added to an output while it is in registers
constexpr long PART = 64;         // keys dealt to a thread at a time; fixed, so that threads change no bit
constexpr long MOST_HEADS = 32;   // heads whose scores over a part are kept beside each other

struct Share {  // what a part of the keys counts beside the others
    float largest, sum;
};

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

    // to += the sum of `count` values, one head's width each and `stride` apart, by their weights.
    void add(float* to, const float* from, long stride, const float* weights, long count) const {
        for (; count >= TOGETHER; count -= TOGETHER, from += TOGETHER * stride, weights += TOGETHER)
            add_some<TOGETHER>(to, from, stride, weights);
        for (; count > 0; count--, from += stride, weights++) add_some<1>(to, from, stride, weights);
    }

    template <int COUNT>
    void add_some(float* to, const float* from, long stride, const float* weights) const {
        long c = 0;
        for (; c + LANES <= width; c += LANES) {
            Floats sum = load<Floats>(to + c);
            for (int i = 0; i < COUNT; i++) sum += load<Floats>(from + i * stride + c) * weights[i];
            store(to + c, sum);
        }
        for (; c < width; c++)
            for (int i = 0; i < COUNT; i++) to[c] += from[i * stride + c] * weights[i];
    }

    long parts_of(long row) const { return (lengths[row] + PART - 1) / PART; }

    // work(t, where, count) for the pages of one part: its first key, where that lies, how many keys there are
    template <typename Work>
    void for_pages(long row, long part, Work&& work) const {
        const long end = (part + 1) * PART < lengths[row] ? (part + 1) * PART : lengths[row];
        for (long t = part * PART, count; t < end; t += count) {
            count = page_size - t % page_size;
            if (t + count > end) count = end - t;
            const long slot = pages[row * most_pages + t / page_size] * page_size + t % page_size;
            work(t, slot * heads * width, count);
        }
    }

    // Scores become exp(score - largest); returns their sum and the largest.
    Share weigh(float* scores, long count) const {
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
        return {top, sum_of(total)};
    }

    // All heads of a row over one part of its keys, key by key: memory is read in order. mixed: [heads][width]
    void attend_part(long row, long part, Share* shares, float* mixed) const {
        alignas(64) float scores[MOST_HEADS * PART];
        const float* own = query + row * blocks * heads * width;
        const long keys_a_block = pages_a_block * page_size, slot = heads * width, start = part * PART;
        long seen = 0;
        for (long first = 0; first < heads; first += MOST_HEADS) {
            const long last = first + MOST_HEADS < heads ? first + MOST_HEADS : heads;
            seen = 0;
            for_pages(row, part, [&](long t, long where, long count) {
                for (long i = 0; i < count; i++)
                    for (long head = first; head < last; head++)
                        scores[(head - first) * PART + t - start + i] =
                            dot(own + (t + i) / keys_a_block * slot + head * width,
                                keys + where + i * slot + head * width) * scale;
                seen += count;
            });
            for (long head = first; head < last; head++) shares[head] = weigh(scores + (head - first) * PART, seen);
            for (long c = first * width; c < last * width; c++) mixed[c] = 0.f;
            for_pages(row, part, [&](long t, long where, long count) {
                for (long head = first; head < last; head++)
                    add(mixed + head * width, values + where + head * width, slot,
                        scores + (head - first) * PART + t - start, count);
            });
        }
    }

    // The parts of a row become one by log-sum-exp, always in order.
    void join(long row, const Share* shares, const float* mixed, float* out) const {
        const long parts = parts_of(row), slot = heads * width;
        for (long head = 0; head < heads; head++) {
            float top = shares[head].largest, total = 0.f;
            for (long p = 1; p < parts; p++)
                if (shares[p * heads + head].largest > top) top = shares[p * heads + head].largest;
            for (long c = 0; c < width; c++) out[head * width + c] = 0.f;
            for (long p = 0; p < parts; p++) {
                const float weight = std::exp(shares[p * heads + head].largest - top);
                total += weight * shares[p * heads + head].sum;
                add(out + head * width, mixed + p * slot + head * width, 0, &weight, 1);
            }
            for (long c = 0; c < width; c++) out[head * width + c] /= total;
        }
    }
};

}  // namespace

extern "C" {

// Returns 0, or 1 when there is no memory for what the parts of the keys give.
int kosmos_attend_paged(const float* query, const float* keys, const float* values, const int32_t* pages,
                        const int32_t* lengths, float* out, long rows, long most_pages, long page_size,
                        long pages_a_block, long blocks, long heads, long width, float scale) {
    const Paged paged{query, keys, values, pages, lengths, most_pages, page_size, pages_a_block,
                      blocks, heads, width, scale};
    long most_parts = 1;
    for (long row = 0; row < rows; row++)
        if (paged.parts_of(row) > most_parts) most_parts = paged.parts_of(row);
    const long slot = heads * width, places = rows * most_parts;
    float* mixed = static_cast<float*>(scratch(places * (slot * sizeof(float) + heads * sizeof(Share))));
    if (!mixed) return 1;
    Share* shares = reinterpret_cast<Share*>(mixed + places * slot);
#pragma omp parallel
    {
#pragma omp for schedule(dynamic, 1)
        for (long place = 0; place < places; place++)
            if (place % most_parts < paged.parts_of(place / most_parts))
                paged.attend_part(place / most_parts, place % most_parts, shares + place * heads, mixed + place * slot);
#pragma omp for schedule(static)
        for (long row = 0; row < rows; row++)
            paged.join(row, shares + row * most_parts * heads, mixed + row * most_parts * slot, out + row * slot);
    }
    return 0;
}

}  // extern "C"
