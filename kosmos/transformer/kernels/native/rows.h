// What all products share: where results go, memory for rearranged activations, and how weight rows are dealt to threads.
//
// Reading the weights is the cost, so each weight is loaded once for all rows and kept in its stored row-major order.
// Work is dealt to threads in blocks of weight rows; inside a block a register tile of NB weight rows x M activation
// rows is summed. No OpenMP runtime is linked: the symbols come from the one that the process (torch) has loaded.
#pragma once

#include <cstdlib>

#include "vectors.h"

namespace {

struct Rows {  // activations [count][k], fp32 or bf16
    const void* values;
    int are_bf16;
    long count;
    long k;

    float at(long m, long c) const {
        if (are_bf16) return float_of_bf16(static_cast<const uint16_t*>(values)[m * k + c]);
        return static_cast<const float*>(values)[m * k + c];
    }
};

struct Result {  // where sums go: biased, stored as fp32 or bf16
    void* out;
    long stride;
    int out_is_bf16;
    const void* bias;
    int bias_is_bf16;

    float bias_of(long n) const {
        if (!bias) return 0.f;
        return bias_is_bf16 ? float_of_bf16(static_cast<const uint16_t*>(bias)[n]) : static_cast<const float*>(bias)[n];
    }

    void put(long m, long n, float sum) const {
        float value = sum + bias_of(n);
        if (!out_is_bf16) {
            static_cast<float*>(out)[m * stride + n] = value;
            return;
        }
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        static_cast<uint16_t*>(out)[m * stride + n] = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
    }
};

// Memory of this thread for rearranged activations; grows, never shrinks, and goes with the thread.
struct Scratch {
    void* memory = nullptr;
    size_t size = 0;
    ~Scratch() { std::free(memory); }
};

inline void* scratch(size_t bytes) {
    static thread_local Scratch own;
    if (bytes > own.size) {
        std::free(own.memory);
        own.size = (bytes + 4095) / 4096 * 4096;
        own.memory = std::aligned_alloc(4096, own.size);
        if (!own.memory) own.size = 0;
    }
    return own.memory;
}

inline void prefetch(const void* address) { _mm_prefetch(static_cast<const char*>(address), _MM_HINT_T1); }

constexpr long BLOCK_BYTES = 1 << 17;  // weights dealt to a thread at a time: small against L2, large against dealing

#ifdef __AVX512F__
constexpr int MAX_TILE = 8;  // activation rows in one register tile
constexpr int EVEN_TILE = 6;  // of tiles when there are more rows than that: these waste no register
constexpr int rows_beside(int m) { return m <= 6 ? 4 : 3; }  // weight rows: M * NB sums and NB weights in 32 registers
#else
constexpr int MAX_TILE = 6;
constexpr int EVEN_TILE = 4;
constexpr int rows_beside(int m) { return m <= 2 ? 4 : m <= 4 ? 3 : 2; }  // in 16 registers
#endif

// tile.run<M, NB>(n, m) for the weight rows first..last and M activation rows from m.
template <int M, typename Tile>
void for_block(const Tile& tile, long first, long last, long m) {
    constexpr int NB = rows_beside(M);
    long n = first;
    for (; n + NB <= last; n += NB) tile.template run<M, NB>(n, m);
    for (; n < last; n++) tile.template run<M, 1>(n, m);
}

template <typename Tile>
void for_rows(const Tile& tile, long first, long last, long m, long count) {
    switch (count) {
        case 1: for_block<1>(tile, first, last, m); break;
        case 2: for_block<2>(tile, first, last, m); break;
        case 3: for_block<3>(tile, first, last, m); break;
        case 4: for_block<4>(tile, first, last, m); break;
        case 5: for_block<5>(tile, first, last, m); break;
#ifdef __AVX512F__
        case 7: for_block<7>(tile, first, last, m); break;
        case 8: for_block<8>(tile, first, last, m); break;
#endif
        default: for_block<6>(tile, first, last, m); break;
    }
}

// All weight rows by all activation rows: blocks of the first on threads, tiles of nearly equal height of the second.
template <typename Tile>
void multiply(const Tile& tile, long num_out, long num_x, long row_bytes) {
    long block = BLOCK_BYTES / (row_bytes > 0 ? row_bytes : 1) / 24 * 24;  // a multiple of every NB
    if (block < 24) block = 24;
    const long num_blocks = (num_out + block - 1) / block;
    const long tiles = num_x <= MAX_TILE ? 1 : (num_x + EVEN_TILE - 1) / EVEN_TILE;
#pragma omp parallel for schedule(dynamic, 1)
    for (long b = 0; b < num_blocks; b++) {
        long first = b * block, last = first + block < num_out ? first + block : num_out;
        for (long t = 0; t < tiles; t++) {
            long m = num_x * t / tiles;
            for_rows(tile, first, last, m, num_x * (t + 1) / tiles - m);
        }
    }
}

}  // namespace
