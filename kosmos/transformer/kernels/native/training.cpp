// What stands between the products of a training step, a row at a time while it is in the cache: causal softmax with
// dropout, GELU with the norm behind it, dropout with the sum behind it, each forward and backward; logits to losses.
//
// What is dropped follows from a seed and a number's place alone: a backward pass finds it again, so that no mask is
// kept, and threads change nothing.

#include <cmath>

#include "rows.h"

namespace {

constexpr uint32_t STEP = 0x9e3779b9u;  // from one place of a row to the next

struct Dropout {
    uint64_t seed;
    uint32_t limit;  // a number goes whose hash is below it
    float scale;     // of those that stay

    // Two keys for the places of a row (splitmix64).
    void keys(uint64_t row, uint32_t& first, uint32_t& second) const {
        uint64_t z = seed + (row + 1) * 0x9e3779b97f4a7c15ull;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
        z ^= z >> 31;
        first = static_cast<uint32_t>(z);
        second = static_cast<uint32_t>(z >> 32);
    }
};

// The factors of a row's places, vector by vector: 0 or `scale`.
struct Factors {
    Words place = {};
    uint32_t second, limit;
    float scale;

    Factors(const Dropout& dropout, uint64_t row) : limit(dropout.limit), scale(dropout.scale) {
        uint32_t first;
        dropout.keys(row, first, second);
        for (int i = 0; i < LANES; i++) place[i] = first + STEP * static_cast<uint32_t>(i);
    }

    inline Floats next() {
        Words hash = (place ^ (place >> 16)) * 0x21f0aaadu;
        hash = (hash ^ second ^ (hash >> 15)) * 0x735a2d97u;
        hash ^= hash >> 15;
        place += STEP * static_cast<uint32_t>(LANES);
        return hash < limit ? Floats{} : all(scale);
    }
};

// A vector of a row of `width` numbers, or what is left of one at its end: nothing behind the row is read or written.
inline Floats take(const float* row, long at, long width) {
    if (at + LANES <= width) return load<Floats>(row + at);
    Floats some = {};
    std::memcpy(&some, row + at, static_cast<size_t>(width - at) * sizeof(float));
    return some;
}

inline void put(float* row, long at, long width, Floats values) {
    if (at + LANES <= width)
        store(row + at, values);
    else
        std::memcpy(row + at, &values, static_cast<size_t>(width - at) * sizeof(float));
}

inline Floats counted() {
    Floats v = {};
    for (int i = 0; i < LANES; i++) v[i] = static_cast<float>(i);
    return v;
}

// Products of queries and keys [batches][queries][keys]. Query i sees `first_query + i + 1` keys; the rest becomes 0.
struct Attention {
    long queries, keys, first_query, first_number, length;
    float scale;
    Dropout dropout;

    // Which row this is of all, for its dropout.
    uint64_t number(long row) const {
        return static_cast<uint64_t>(first_number + row / queries * length + first_query + row % queries);
    }

    // Products become weights that are not yet divided by their sum, dropped ones 0.
    void forward(float* scores, long row, float* top, float* sum) const {
        const long seen = first_query + row % queries + 1;
        const Floats places = counted();
        Floats most = all(-INFINITY), total = {};
        for (long t = 0; t < seen; t += LANES) {
            const Floats value = take(scores, t, keys);
            most = larger(most, places < all(static_cast<float>(seen - t)) ? value : all(-INFINITY));
        }
        *top = largest_of(most) * scale;
        Factors factors(dropout, number(row));
        for (long t = 0; t < seen; t += LANES) {
            const Floats weight = exponential(take(scores, t, keys) * scale - *top);
            const Floats own = places < all(static_cast<float>(seen - t)) ? weight : Floats{};
            total += own;
            put(scores, t, keys, own * factors.next());
        }
        *sum = sum_of(total);
        clear(scores, seen);
    }

    // Products become dropped weights; slopes of dropped weights become those of the products. `along` is the sum of
    // weights times slopes.
    void backward(float* scores, float* slopes, long row, float log_sum, float along) const {
        const long seen = first_query + row % queries + 1;
        const Floats places = counted();
        Factors factors(dropout, number(row));
        for (long t = 0; t < seen; t += LANES) {
            const Floats weight = exponential(take(scores, t, keys) * scale - log_sum), factor = factors.next();
            const Floats own = places < all(static_cast<float>(seen - t)) ? weight : Floats{};
            put(slopes, t, keys, (factor * take(slopes, t, keys) - along) * own * scale);
            put(scores, t, keys, own * factor);
        }
        clear(scores, seen);
        clear(slopes, seen);
    }

    void clear(float* row, long seen) const {
        for (long t = (seen + LANES - 1) / LANES * LANES; t < keys; t += LANES) put(row, t, keys, Floats{});
    }
};

constexpr float ROOT_HALF = 0.70710678f, ROOT_TAU = 0.39894228f;

// The normal distribution's share below h, within 2e-7, and its density there (Abramowitz and Stegun, 7.1.26).
inline void normal(Floats h, Floats& share, Floats& density) {
    const Floats size = h < Floats{} ? -h : h, bell = exponential(h * h * -0.5f);
    const Floats t = 1.f / (1.f + size * (0.3275911f * ROOT_HALF));
    Floats tail = t * 1.061405429f - 1.453152027f;
    tail = tail * t + 1.421413741f;
    tail = tail * t - 0.284496736f;
    tail = tail * t + 0.254829592f;
    tail = tail * t * bell * 0.5f;
    share = h < Floats{} ? tail : 1.f - tail;
    density = bell * ROOT_TAU;
}

// GELU by the error function, then a norm over the row.
struct ActivatedNorm {
    long width;  // a multiple of LANES
    float eps;
    const float *gain, *shift;

    void forward(const float* in, float* out, float* mean, float* inverse) const {
        Floats total = {}, squares = {}, share, density;
        for (long c = 0; c < width; c += LANES) {
            const Floats h = load<Floats>(in + c);
            normal(h, share, density);
            store(out + c, h * share);
            total += h * share;
        }
        *mean = sum_of(total) / static_cast<float>(width);
        for (long c = 0; c < width; c += LANES) {
            const Floats apart = load<Floats>(out + c) - *mean;
            squares += apart * apart;
        }
        *inverse = 1.f / std::sqrt(sum_of(squares) / static_cast<float>(width) + eps);
        for (long c = 0; c < width; c += LANES) {
            const Floats normed = (load<Floats>(out + c) - *mean) * *inverse;
            store(out + c, normed * load<Floats>(gain + c) + load<Floats>(shift + c));
        }
    }

    // `normed` and `rises` are room for a row; `gains` and `shifts` grow by what this row adds to their gradients.
    void backward(const float* in, const float* slopes, float* out, float mean, float inverse, float* normed,
                  float* rises, float* gains, float* shifts) const {
        Floats total = {}, turned = {}, share, density;
        for (long c = 0; c < width; c += LANES) {
            const Floats h = load<Floats>(in + c), slope = load<Floats>(slopes + c);
            normal(h, share, density);
            const Floats own = (h * share - mean) * inverse, wanted = slope * load<Floats>(gain + c);
            store(normed + c, own);
            store(rises + c, share + h * density);
            store(gains + c, load<Floats>(gains + c) + slope * own);
            store(shifts + c, load<Floats>(shifts + c) + slope);
            total += wanted;
            turned += wanted * own;
        }
        const float middle = sum_of(total) / static_cast<float>(width);
        const float turn = sum_of(turned) / static_cast<float>(width);
        for (long c = 0; c < width; c += LANES) {
            const Floats wanted = load<Floats>(slopes + c) * load<Floats>(gain + c);
            const Floats apart = wanted - middle - load<Floats>(normed + c) * turn;
            store(out + c, apart * inverse * load<Floats>(rises + c));
        }
    }
};

// Logits of a row become the gradient of its weighted loss; returns the loss.
inline float loss_of(float* logits, long words, long target, float weight, float smoothing) {
    Floats most = all(-INFINITY), total = {}, sums = {};
    for (long c = 0; c < words; c += LANES) {
        Floats values = take(logits, c, words);
        sums += values;
        for (int i = 0; i < LANES && c + LANES > words; i++)
            if (c + i >= words) values[i] = -INFINITY;
        most = larger(most, values);
    }
    const float top = largest_of(most), wanted = logits[target];
    for (long c = 0; c < words; c += LANES) {
        Floats values = exponential(take(logits, c, words) - top);
        put(logits, c, words, values);
        for (int i = 0; i < LANES && c + LANES > words; i++)
            if (c + i >= words) values[i] = 0.f;
        total += values;
    }
    const float sum = sum_of(total), count = static_cast<float>(words);
    const float scale = weight / sum, even = weight * smoothing / count;
    for (long c = 0; c < words; c += LANES) put(logits, c, words, take(logits, c, words) * scale - even);
    logits[target] -= weight * (1.f - smoothing);
    const float log_sum = top + std::log(sum), mean = smoothing == 0.f ? 0.f : sum_of(sums) / count;
    return log_sum - (1.f - smoothing) * wanted - smoothing * mean;
}

constexpr long ROWS_TOGETHER = 64;  // whose gradients of gain and shift are added up first: fixed, for any threads

}  // namespace

extern "C" {

int kosmos_lanes() { return LANES; }

long kosmos_rows_together() { return ROWS_TOGETHER; }

void kosmos_softmax_dropped(float* scores, float* tops, float* sums, long rows, long queries, long keys,
                            long first_query, long first_number, long length, float scale, uint64_t seed,
                            uint32_t limit, float kept) {
    const Attention attention{queries, keys, first_query, first_number, length, scale, {seed, limit, kept}};
#pragma omp parallel for schedule(dynamic, 16)
    for (long row = 0; row < rows; row++) attention.forward(scores + row * keys, row, tops + row, sums + row);
}

void kosmos_softmax_dropped_backward(float* scores, float* slopes, const float* log_sums, const float* along, long rows,
                                     long queries, long keys, long first_query, long first_number, long length,
                                     float scale, uint64_t seed, uint32_t limit, float kept) {
    const Attention attention{queries, keys, first_query, first_number, length, scale, {seed, limit, kept}};
#pragma omp parallel for schedule(dynamic, 16)
    for (long row = 0; row < rows; row++)
        attention.backward(scores + row * keys, slopes + row * keys, row, log_sums[row], along[row]);
}

void kosmos_activated_norm(const float* in, const float* gain, const float* shift, float* out, float* means,
                           float* inverses, long rows, long width, float eps) {
    const ActivatedNorm norm{width, eps, gain, shift};
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++)
        norm.forward(in + row * width, out + row * width, means + row, inverses + row);
}

// `gains` and `shifts` hold a row for every ROWS_TOGETHER rows, to be added up. Returns 0, or 1 without memory.
int kosmos_activated_norm_backward(const float* in, const float* gain, const float* slopes, const float* means,
                                   const float* inverses, float* out, float* gains, float* shifts, long rows,
                                   long width) {
    const ActivatedNorm norm{width, 0.f, gain, nullptr};
    const long groups = (rows + ROWS_TOGETHER - 1) / ROWS_TOGETHER;
    int failed = 0;
#pragma omp parallel for schedule(dynamic, 1)
    for (long group = 0; group < groups; group++) {
        float* room = static_cast<float*>(scratch(2 * static_cast<size_t>(width) * sizeof(float)));
        if (!room) {
#pragma omp atomic write
            failed = 1;
            continue;
        }
        float *own_gains = gains + group * width, *own_shifts = shifts + group * width;
        for (long c = 0; c < width; c++) own_gains[c] = own_shifts[c] = 0.f;
        const long last = (group + 1) * ROWS_TOGETHER < rows ? (group + 1) * ROWS_TOGETHER : rows;
        for (long row = group * ROWS_TOGETHER; row < last; row++)
            norm.backward(in + row * width, slopes + row * width, out + row * width, means[row], inverses[row], room,
                          room + width, own_gains, own_shifts);
    }
    return failed;
}

// Returns 0, or 1 for a target that is no word; then nothing is written.
int kosmos_word_losses(float* logits, const int64_t* targets, const float* weights, float* losses, long rows,
                       long words, float smoothing) {
    for (long row = 0; row < rows; row++)
        if (targets[row] < 0 || targets[row] >= words) return 1;
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++)
        losses[row] = loss_of(logits + row * words, words, targets[row], weights[row], smoothing);
    return 0;
}

// out = stream + dropped x; the dropped x alone where `stream` is null.
void kosmos_add_dropped(const float* stream, const float* x, float* out, long rows, long width, uint64_t seed,
                        uint32_t limit, float kept) {
    const Dropout dropout{seed, limit, kept};
#pragma omp parallel for schedule(static)
    for (long row = 0; row < rows; row++) {
        Factors factors(dropout, static_cast<uint64_t>(row));
        const float *own = x + row * width, *under = stream ? stream + row * width : nullptr;
        float* to = out + row * width;
        for (long c = 0; c < width; c += LANES) {
            const Floats dropped = take(own, c, width) * factors.next();
            put(to, c, width, under ? take(under, c, width) + dropped : dropped);
        }
    }
}

}  // extern "C"
