// Matrix products of few rows by large stored weights: out[m][n] = sum_k x[m][k] * w[n][k] + bias[n].
//
// Reading the weights is the cost, so each weight is loaded once for all rows and kept in its stored row-major order.
// Work is dealt to threads in blocks of weight rows; inside a block a register tile of NB weight rows x M activation
// rows is summed. Needs AVX-512 F, BW, DQ, VL, VNNI; dpbf16 is used where the compiler was told that it exists.
// No OpenMP runtime is linked: the symbols come from the one that the process (torch) has already loaded.

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <immintrin.h>

namespace {

constexpr int MAX_TILE = 8;       // activation rows in one register tile
constexpr long BLOCK_BYTES = 1 << 17;  // weights dealt to a thread at a time: small against L2, large against dealing

enum Method : int { WIDEN = 0, DPBF16 = 1 };

struct Result {  // where sums go: scaled, biased, stored as fp32 or bf16
    void* out;
    long out_stride;
    int out_is_bf16;
    const void* bias;
    int bias_is_bf16;

    float bias_of(long n) const {
        if (!bias) return 0.f;
        if (!bias_is_bf16) return static_cast<const float*>(bias)[n];
        uint32_t bits = static_cast<uint32_t>(static_cast<const uint16_t*>(bias)[n]) << 16;
        float value;
        std::memcpy(&value, &bits, 4);
        return value;
    }

    void store(long m, long n, float sum) const {
        float value = sum + bias_of(n);
        if (!out_is_bf16) {
            static_cast<float*>(out)[m * out_stride + n] = value;
            return;
        }
        uint32_t bits;
        std::memcpy(&bits, &value, 4);
        bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
        uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        static_cast<uint16_t*>(out)[m * out_stride + n] = static_cast<uint16_t>(nan ? 0x7fc0u : rounded);
    }
};

// Per-thread memory for rearranged activations; grows, never shrinks.
void* scratch(size_t bytes) {
    static thread_local void* memory = nullptr;
    static thread_local size_t size = 0;
    if (bytes > size) {
        std::free(memory);
        size = (bytes + 4095) / 4096 * 4096;
        memory = std::aligned_alloc(4096, size);
        if (!memory) size = 0;
    }
    return memory;
}

inline __mmask32 tail32(long left) { return left >= 32 ? 0xffffffffu : static_cast<__mmask32>((1ull << left) - 1); }
inline __mmask64 tail64(long left) { return left >= 64 ? ~0ull : static_cast<__mmask64>((1ull << left) - 1); }

// ---- activations, rearranged once a call ------------------------------------------------------------------------

// For WIDEN: chunks of 32 values become 16 even ones, then 16 odd ones, in fp32, as widened bf16 weights come out.
void deinterleave(const void* x, int x_is_bf16, float* to, long row, long k, long padded) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    const __m512i evens = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odds = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    for (long c = 0; c < padded; c += 32) {
        __m512 even, odd;
        __mmask32 mask = tail32(k - c);
        if (x_is_bf16) {
            __m512i raw = _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(x) + row * k + c);
            even = _mm512_castsi512_ps(_mm512_slli_epi32(raw, 16));
            odd = _mm512_castsi512_ps(_mm512_and_si512(raw, high));
        } else {
            const float* from = static_cast<const float*>(x) + row * k + c;
            __m512 low_part = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), from);
            __m512 high_part = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), from + 16);
            even = _mm512_permutex2var_ps(low_part, evens, high_part);
            odd = _mm512_permutex2var_ps(low_part, odds, high_part);
        }
        _mm512_store_ps(to + row * padded + c, even);
        _mm512_store_ps(to + row * padded + c + 16, odd);
    }
}

// For DPBF16: bf16, rounded to nearest even, zero after k.
void as_bf16(const void* x, int x_is_bf16, uint16_t* to, long row, long k, long padded) {
    const __m512i half = _mm512_set1_epi32(0x7fff), one = _mm512_set1_epi32(1);
    for (long c = 0; c < padded; c += 32) {
        __mmask32 mask = tail32(k - c);
        if (x_is_bf16) {
            __m512i raw = _mm512_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(x) + row * k + c);
            _mm512_store_si512(to + row * padded + c, raw);
            continue;
        }
        for (int part = 0; part < 2; part++) {
            const float* from = static_cast<const float*>(x) + row * k + c + 16 * part;
            __mmask16 here = static_cast<__mmask16>(mask >> (16 * part));
            __m512i bits = _mm512_castps_si512(_mm512_maskz_loadu_ps(here, from));
            __m512i lowest = _mm512_and_si512(_mm512_srli_epi32(bits, 16), one);
            __m512i rounded = _mm512_srli_epi32(_mm512_add_epi32(bits, _mm512_add_epi32(half, lowest)), 16);
            __m256i* place = reinterpret_cast<__m256i*>(to + row * padded + c + 16 * part);
            _mm256_store_si256(place, _mm512_cvtepi32_epi16(rounded));
        }
    }
}

// For int8 weights: one scale a row, values -127..127 stored as 1..255 (the kernel multiplies unsigned by signed).
float as_bytes(const void* x, int x_is_bf16, uint8_t* to, long row, long k, long padded) {
    auto read = [&](long c) {
        __mmask16 mask = c >= k ? 0 : static_cast<__mmask16>(tail32(k - c) & 0xffff);
        if (!x_is_bf16) return _mm512_maskz_loadu_ps(mask, static_cast<const float*>(x) + row * k + c);
        __m256i raw = _mm256_maskz_loadu_epi16(mask, static_cast<const uint16_t*>(x) + row * k + c);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
    };
    __m512 largest = _mm512_setzero_ps();
    for (long c = 0; c < padded; c += 16) largest = _mm512_max_ps(largest, _mm512_abs_ps(read(c)));
    float scale = _mm512_reduce_max_ps(largest) / 127.f;
    __m512 inverse = _mm512_set1_ps(scale > 0.f ? 1.f / scale : 0.f);
    for (long c = 0; c < padded; c += 16) {
        __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(read(c), inverse));
        __m512i shifted = _mm512_add_epi32(whole, _mm512_set1_epi32(128));
        _mm_store_si128(reinterpret_cast<__m128i*>(to + row * padded + c), _mm512_cvtusepi32_epi8(shifted));
    }
    return scale;
}

// ---- register tiles ---------------------------------------------------------------------------------------------

template <int M, int NB>
inline void tile_widen(const float* x, long padded, const uint16_t* w, long k, long n, long m, bool fetch,
                       const Result& result) {
    const __m512i high = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    __m512 sums[M][NB];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NB; j++) sums[i][j] = _mm512_setzero_ps();
    const long whole = k / 32 * 32;
    for (long c = 0; c < whole; c += 32) {
        if (fetch)
            for (int j = 0; j < NB; j++) _mm_prefetch(reinterpret_cast<const char*>(w + (j + NB) * k + c), _MM_HINT_T1);
        __m512 wide[NB];
        for (int j = 0; j < NB; j++)
            wide[j] = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(w + j * k + c), 16));
        for (int i = 0; i < M; i++) {
            __m512 value = _mm512_load_ps(x + i * padded + c);
            for (int j = 0; j < NB; j++) sums[i][j] = _mm512_fmadd_ps(wide[j], value, sums[i][j]);
        }
        for (int j = 0; j < NB; j++)
            wide[j] = _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(w + j * k + c), high));
        for (int i = 0; i < M; i++) {
            __m512 value = _mm512_load_ps(x + i * padded + c + 16);
            for (int j = 0; j < NB; j++) sums[i][j] = _mm512_fmadd_ps(wide[j], value, sums[i][j]);
        }
    }
    if (whole < k) {
        __mmask32 mask = tail32(k - whole);
        for (int j = 0; j < NB; j++) {
            __m512i raw = _mm512_maskz_loadu_epi16(mask, w + j * k + whole);
            __m512 even = _mm512_castsi512_ps(_mm512_slli_epi32(raw, 16));
            __m512 odd = _mm512_castsi512_ps(_mm512_and_si512(raw, high));
            for (int i = 0; i < M; i++) {
                sums[i][j] = _mm512_fmadd_ps(even, _mm512_load_ps(x + i * padded + whole), sums[i][j]);
                sums[i][j] = _mm512_fmadd_ps(odd, _mm512_load_ps(x + i * padded + whole + 16), sums[i][j]);
            }
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NB; j++) result.store(m + i, n + j, _mm512_reduce_add_ps(sums[i][j]));
}

#ifdef __AVX512BF16__
template <int M, int NB>
inline void tile_dpbf16(const uint16_t* x, long padded, const uint16_t* w, long k, long n, long m, bool fetch,
                        const Result& result) {
    __m512 sums[M][NB];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NB; j++) sums[i][j] = _mm512_setzero_ps();
    for (long c = 0; c < k; c += 32) {
        __mmask32 mask = tail32(k - c);
        if (fetch)
            for (int j = 0; j < NB; j++) _mm_prefetch(reinterpret_cast<const char*>(w + (j + NB) * k + c), _MM_HINT_T1);
        __m512bh pairs[NB];
        for (int j = 0; j < NB; j++)
            pairs[j] = (__m512bh)(mask == 0xffffffffu ? _mm512_loadu_si512(w + j * k + c)
                                                      : _mm512_maskz_loadu_epi16(mask, w + j * k + c));
        for (int i = 0; i < M; i++) {
            __m512bh value = (__m512bh)_mm512_load_si512(x + i * padded + c);
            for (int j = 0; j < NB; j++) sums[i][j] = _mm512_dpbf16_ps(sums[i][j], pairs[j], value);
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NB; j++) result.store(m + i, n + j, _mm512_reduce_add_ps(sums[i][j]));
}
#endif

struct Bytes {  // int8 weights beside the scales that turn whole-number sums into values
    const float* weight_scale;
    const int32_t* weight_sum;
    const float* row_scale;
};

template <int M, int NB>
inline void tile_bytes(const uint8_t* x, long padded, const int8_t* w, long k, long n, long m, bool fetch,
                       const Bytes& bytes, const Result& result) {
    __m512i sums[M][NB];
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NB; j++) sums[i][j] = _mm512_setzero_si512();
    for (long c = 0; c < k; c += 64) {
        __mmask64 mask = tail64(k - c);
        if (fetch)
            for (int j = 0; j < NB; j++) _mm_prefetch(reinterpret_cast<const char*>(w + (j + NB) * k + c), _MM_HINT_T1);
        __m512i values[NB];
        for (int j = 0; j < NB; j++)
            values[j] = mask == ~0ull ? _mm512_loadu_si512(w + j * k + c)
                                      : _mm512_maskz_loadu_epi8(mask, w + j * k + c);
        for (int i = 0; i < M; i++) {
            __m512i value = _mm512_load_si512(x + i * padded + c);
            for (int j = 0; j < NB; j++) sums[i][j] = _mm512_dpbusd_epi32(sums[i][j], value, values[j]);
        }
    }
    for (int i = 0; i < M; i++)
        for (int j = 0; j < NB; j++) {
            int32_t sum = _mm512_reduce_add_epi32(sums[i][j]) - 128 * bytes.weight_sum[n + j];
            result.store(m + i, n + j, static_cast<float>(sum) * bytes.weight_scale[n + j] * bytes.row_scale[m + i]);
        }
}

// ---- blocks of weight rows --------------------------------------------------------------------------------------

// Weight rows in a tile with M activation rows: M * NB sums, NB weights and one activation fit into 32 registers.
constexpr int rows_beside(int m) { return m <= 6 ? 4 : 3; }

template <typename Tile>
void for_block(long first, long last, int nb, Tile&& tile) {
    long n = first;
    for (; n + nb <= last; n += nb) tile(n, true);
    for (; n < last; n++) tile(n, false);
}

template <int M>
void block_widen(const float* x, long padded, const uint16_t* w, long k, long first, long last, long m, bool fetch,
           const Result& r) {
    constexpr int NB = rows_beside(M);
    for_block(first, last, NB, [&](long n, bool full) {
        if (full) tile_widen<M, NB>(x, padded, w + n * k, k, n, m, fetch, r);
        else tile_widen<M, 1>(x, padded, w + n * k, k, n, m, fetch, r);
    });
}

#ifdef __AVX512BF16__
template <int M>
void block_dpbf16(const uint16_t* x, long padded, const uint16_t* w, long k, long first, long last, long m, bool fetch,
           const Result& r) {
    constexpr int NB = rows_beside(M);
    for_block(first, last, NB, [&](long n, bool full) {
        if (full) tile_dpbf16<M, NB>(x, padded, w + n * k, k, n, m, fetch, r);
        else tile_dpbf16<M, 1>(x, padded, w + n * k, k, n, m, fetch, r);
    });
}
#endif

template <int M>
void block_bytes(const uint8_t* x, long padded, const int8_t* w, long k, long first, long last, long m, bool fetch,
                 const Bytes& b, const Result& r) {
    constexpr int NB = rows_beside(M);
    for_block(first, last, NB, [&](long n, bool full) {
        if (full) tile_bytes<M, NB>(x, padded, w + n * k, k, n, m, fetch, b, r);
        else tile_bytes<M, 1>(x, padded, w + n * k, k, n, m, fetch, b, r);
    });
}

#define BY_ROWS(count, function, ...)             \
    switch (count) {                              \
        case 1: function<1>(__VA_ARGS__); break;  \
        case 2: function<2>(__VA_ARGS__); break;  \
        case 3: function<3>(__VA_ARGS__); break;  \
        case 4: function<4>(__VA_ARGS__); break;  \
        case 5: function<5>(__VA_ARGS__); break;  \
        case 6: function<6>(__VA_ARGS__); break;  \
        case 7: function<7>(__VA_ARGS__); break;  \
        default: function<8>(__VA_ARGS__); break; \
    }

// Tiles of nearly equal height: up to 8 rows are one tile, more are tiles of at most 6 (which waste no register).
inline long tiles_of(long rows) { return rows <= MAX_TILE ? 1 : (rows + 5) / 6; }

template <typename Work>
void over_blocks(long num_rows, long row_bytes, Work&& work) {
    long block = BLOCK_BYTES / (row_bytes > 0 ? row_bytes : 1) / 24 * 24;  // a multiple of every NB
    if (block < 24) block = 24;
    const long num_blocks = (num_rows + block - 1) / block;
#pragma omp parallel for schedule(dynamic, 1)
    for (long b = 0; b < num_blocks; b++) {
        long last = (b + 1) * block;
        work(b * block, last < num_rows ? last : num_rows);
    }
}

template <typename Work>
void over_tiles(long num_x, Work&& work) {
    const long tiles = tiles_of(num_x);
    for (long t = 0; t < tiles; t++) {
        long m = num_x * t / tiles;
        work(m, num_x * (t + 1) / tiles - m);
    }
}

}  // namespace

extern "C" {

// 1: products of bf16 by widening; 2: also by dpbf16.
int kosmos_methods() {
#ifdef __AVX512BF16__
    return 2;
#else
    return 1;
#endif
}

// Returns 0, or 1 when there is no memory for the rearranged activations.
int kosmos_linear_bf16(const void* x, int x_is_bf16, const uint16_t* w, const void* bias, int bias_is_bf16, void* out,
                       int out_is_bf16, long num_x, long num_out, long k, int method) {
    const long padded = (k + 31) / 32 * 32;
    const Result result{out, num_out, out_is_bf16, bias, bias_is_bf16};
    void* memory = scratch(static_cast<size_t>(num_x) * padded * 4);
    if (!memory) return 1;
#ifdef __AVX512BF16__
    if (method == DPBF16) {
        uint16_t* pairs = static_cast<uint16_t*>(memory);
        for (long m = 0; m < num_x; m++) as_bf16(x, x_is_bf16, pairs, m, k, padded);
        over_blocks(num_out, k * 2, [&](long first, long last) {
            over_tiles(num_x, [&](long m, long count) {
                BY_ROWS(count, block_dpbf16, pairs + m * padded, padded, w, k, first, last, m, m == 0, result)
            });
        });
        return 0;
    }
#endif
    float* wide = static_cast<float*>(memory);
#pragma omp parallel for if (num_x > 16)
    for (long m = 0; m < num_x; m++) deinterleave(x, x_is_bf16, wide, m, k, padded);
    over_blocks(num_out, k * 2, [&](long first, long last) {
        over_tiles(num_x, [&](long m, long count) {
            BY_ROWS(count, block_widen, wide + m * padded, padded, w, k, first, last, m, m == 0, result)
        });
    });
    return 0;
}

int kosmos_linear_int8(const void* x, int x_is_bf16, const int8_t* w, const float* weight_scale,
                       const int32_t* weight_sum, const void* bias, int bias_is_bf16, void* out, int out_is_bf16,
                       long num_x, long num_out, long k) {
    const long padded = (k + 63) / 64 * 64;
    const Result result{out, num_out, out_is_bf16, bias, bias_is_bf16};
    uint8_t* values = static_cast<uint8_t*>(scratch(static_cast<size_t>(num_x) * (padded + sizeof(float))));
    if (!values) return 1;
    float* row_scale = reinterpret_cast<float*>(values + num_x * padded);
#pragma omp parallel for if (num_x > 16)
    for (long m = 0; m < num_x; m++) row_scale[m] = as_bytes(x, x_is_bf16, values, m, k, padded);
    const Bytes bytes{weight_scale, weight_sum, row_scale};
    over_blocks(num_out, k, [&](long first, long last) {
        over_tiles(num_x, [&](long m, long count) {
            BY_ROWS(count, block_bytes, values + m * padded, padded, w, k, first, last, m, m == 0, bytes, result)
        });
    });
    return 0;
}

}  // extern "C"
