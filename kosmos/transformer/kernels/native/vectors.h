// Vectors of the widest kind this processor multiplies: 16 lanes of 32 bits with AVX-512, 8 with AVX2.
//
// Written in the compiler's vector extensions, so one source serves both; intrinsics stand only where the two differ.
#pragma once

#include <cstdint>
#include <cstring>
#include <immintrin.h>

#ifdef __AVX512F__
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

typedef float Floats __attribute__((vector_size(LANES * 4)));
typedef int32_t Ints __attribute__((vector_size(LANES * 4)));
typedef uint32_t Words __attribute__((vector_size(LANES * 4)));

template <typename Vector>
inline Vector load(const void* from) {
    Vector vector;
    std::memcpy(&vector, from, sizeof vector);
    return vector;
}

template <typename Vector>
inline void store(void* to, Vector vector) {
    std::memcpy(to, &vector, sizeof vector);
}

// LANES bytes as whole numbers.
inline Ints widened(const uint8_t* from) {
#ifdef __AVX512F__
    return (Ints)_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
    return (Ints)_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)));
#endif
}

inline Floats all(float value) { return value - Floats{}; }

// bf16 is the upper half of a float: the even ones of a pair are shifted up, the odd ones stand there already.
inline Floats even_bf16(Words pairs) { return (Floats)(pairs << 16); }
inline Floats odd_bf16(Words pairs) { return (Floats)(pairs & 0xffff0000u); }

inline float float_of(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline float float_of_bf16(uint16_t bits) { return float_of(static_cast<uint32_t>(bits) << 16); }

// Sums of all lanes, always in the same order.
inline float sum_of(Floats v) {
    __m128 fours[LANES / 4];
    std::memcpy(fours, &v, sizeof v);
    for (int step = LANES / 8; step > 0; step /= 2)
        for (int i = 0; i < step; i++) fours[i] = _mm_add_ps(fours[i], fours[i + step]);
    __m128 two = _mm_add_ps(fours[0], _mm_movehl_ps(fours[0], fours[0]));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

inline int32_t sum_of(Ints v) {
    int32_t sum = 0;
    for (int i = 0; i < LANES; i++) sum += v[i];
    return sum;
}

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

inline float largest_of(Floats v) {
    float largest = v[0];
    for (int i = 1; i < LANES; i++) largest = v[i] > largest ? v[i] : largest;
    return largest;
}

// To the nearest whole number, ties to even; right for |v| < 2^22.
inline Floats rounded(Floats v) {
    const Floats magic = all(12582912.f);  // 1.5 * 2^23: no room for a fraction beside it
    return (v + magic) - magic;
}

inline Ints whole(Floats v) { return __builtin_convertvector(v, Ints); }

// e^v for v <= 0 within two units in the last place; 0 below -87.
inline Floats exponential(Floats v) {
    const Floats floor = all(-87.f);
    Floats x = v < floor ? floor : v;  // in this order what is not a number stays one
    Floats n = rounded(x * 1.44269504f);
    x = x - n * 0.693359375f;
    x = x + n * 2.12194440e-4f;  // ln 2 in two parts
    Floats p = all(1.9875691500e-4f);
    p = p * x + 1.3981999507e-3f;
    p = p * x + 8.3334519073e-3f;
    p = p * x + 4.1665795894e-2f;
    p = p * x + 1.6666665459e-1f;
    p = p * x + 5.0000001201e-1f;
    Floats value = p * x * x + x + 1.f;
    Floats power = (Floats)((whole(n) + 127) << 23);
    return v < floor ? Floats{} : value * power;
}
