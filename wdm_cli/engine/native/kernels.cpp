// Loops over channels-last volumes for which PyTorch has no single operation; compiled and called by __init__.py. What
// they compute is said, in PyTorch's words, by the plain twins in engine/models/kernels.py and engine/wavelet.py.
//
// A tensor [B, C, D, H, W] lies in memory as [B, D, H, W, C]; V = D·H·W voxels. T is float or bf16; all arithmetic is
// in float, sixteen values at a time. Sums are made a piece at a time and the pieces added in order, so that no result
// depends on the number of threads.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// --- Sixteen values at a time (vector extensions of GCC and Clang; narrower processors take several steps) ---

constexpr long LANES = 16;
typedef float Vec __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

struct bf16 {
    uint16_t bits;
};

inline Vec widen(Vec values) { return values; }
inline Vec widen(Halves values) { return Vec(__builtin_convertvector(values, Bits) << 16); }

inline void narrow(Vec values, Vec &to) { to = values; }
inline void narrow(Vec values, Halves &to) {  // to the nearest, ties to even; NaN stays NaN
    Bits bits = Bits(values), rounded = bits + 0x7fff + (bits >> 16 & 1);
    rounded = values == values ? rounded : bits | 0x400000;
    to = __builtin_convertvector(rounded >> 16, Halves);
}

template <class T> struct Packed { typedef Vec type; };
template <> struct Packed<bf16> { typedef Halves type; };

// The first n values at a place; the other lanes are zero. All sixteen if n is larger, none if it is not positive.
template <class T> inline Vec load(const T *from, long n = LANES) {
    typename Packed<T>::type values = {};
    if (n >= LANES) memcpy(&values, from, sizeof values);
    else if (n > 0) memcpy(&values, from, n * sizeof(T));
    return widen(values);
}

template <class T> inline void store(T *to, Vec values, long n = LANES) {
    typename Packed<T>::type packed;
    narrow(values, packed);
    if (n >= LANES) memcpy(to, &packed, sizeof packed);
    else if (n > 0) memcpy(to, &packed, n * sizeof(T));
}

inline Vec splat(float value) { return value - Vec{}; }

// 1 / (1 + exp(−y)) to float's precision. exp(z) = 2^n · exp(r) with |r| <= ln2 / 2 and a polynomial for exp(r).
inline Vec sigmoid(Vec y) {
    Vec z = -y;
    z = z < splat(-87.0f) ? splat(-87.0f) : z;
    z = z > splat(87.0f) ? splat(87.0f) : z;
    const float to_integer = 12582912.0f;  // 1.5 · 2^23: adding it leaves n in the low bits
    Vec shifted = z * 1.44269504f + to_integer, n = shifted - to_integer;
    Vec r = z - n * 0.693359375f + n * 2.12194440e-4f;
    Vec p = 8.33337866e-3f + r * 1.39314849e-3f;
    p = 1.0f + r * (1.0f + r * (0.5f + r * (1.66666657e-1f + r * (4.16664466e-2f + r * p))));
    Vec power = Vec((Bits(shifted) << 23) + 0x3f800000);
    return 1.0f / (1.0f + p * power);
}

// --- How the work is divided ---

constexpr long PIECE = 1 << 15;          // values whose sums are made together; they stay in a core's cache
constexpr long WORTH_THREADS = 1 << 15;  // values below which waking the other threads costs more than it gives

// One number a channel, rows padded to whole vectors with zeros.
struct Rows {
    long width;
    std::vector<float> values;
    Rows(long rows, long channels) : width((channels + LANES - 1) / LANES * LANES), values(rows * width) {}
    float *operator[](long row) { return &values[row * width]; }
};

// The voxels of B samples in pieces, `each` of them a sample; `first` and `second` keep a number a channel for each piece.
struct Pieces {
    long B, V, C, rows, each;
    Rows first, second;
    Pieces(long B, long V, long C)
        : B(B), V(V), C(C), rows(C < PIECE ? PIECE / C : 1), each((V + rows - 1) / rows), first(B * each, C),
          second(B * each, C) {}
    long count() const { return B * each; }
    long from(long piece) const { return piece / each * V + piece % each * rows; }
    long to(long piece) const { return piece / each * V + (piece % each + 1 < each ? (piece % each + 1) * rows : V); }
    double total(Rows &of, long b, long c) const {
        double sum = 0;
        for (long piece = b * each; piece < (b + 1) * each; piece++) sum += of[piece][c];
        return sum;
    }
};

// --- SiLU(GroupNorm(x)) ---

// Mean and 1/std of every group [B, G], from each piece's mean and sum of squared differences from it: neither a large
// mean nor a single value far off takes digits from the variance (Chan et al. 1979).
template <class T> void moments(const T *x, float *mean, float *rstd, long B, long V, long C, long G, float eps) {
    Pieces pieces(B, V, C);
#pragma omp parallel for if (B * V * C >= WORTH_THREADS)
    for (long piece = 0; piece < pieces.count(); piece++) {
        const long from = pieces.from(piece), to = pieces.to(piece);
        for (long c = 0; c < C; c += LANES) {
            Vec sum = {}, rest = {}, squares = {};
            for (long v = from; v < to; v++) sum += load(x + v * C + c, C - c);
            const Vec near = sum / float(to - from);  // the mean but for rounding, which `rest` makes good
            for (long v = from; v < to; v++) {
                const Vec difference = load(x + v * C + c, C - c) - near;
                rest += difference;
                squares += difference * difference;
            }
            rest /= float(to - from);
            store(pieces.first[piece] + c, near + rest);
            store(pieces.second[piece] + c, squares - rest * rest * float(to - from));
        }
    }
    const long members = C / G;
    for (long group = 0; group < B * G; group++) {
        const long b = group / G, first = group % G * members;
        double average = 0, squares = 0;
        for (long piece = b * pieces.each; piece < (b + 1) * pieces.each; piece++)
            for (long c = first; c < first + members; c++)
                average += double(pieces.first[piece][c]) * (pieces.to(piece) - pieces.from(piece)) / (V * members);
        for (long piece = b * pieces.each; piece < (b + 1) * pieces.each; piece++)
            for (long c = first; c < first + members; c++) {
                const double difference = pieces.first[piece][c] - average;
                squares += pieces.second[piece][c] + difference * difference * (pieces.to(piece) - pieces.from(piece));
            }
        mean[group] = float(average);
        rstd[group] = float(1 / std::sqrt(squares / (V * members) + eps));
    }
}

template <class T>
void norm_act(const T *x, const float *weight, const float *bias, T *out, float *mean, float *rstd, long B, long V,
              long C, long G, float eps) {
    moments(x, mean, rstd, B, V, C, G, eps);
    Rows scales(B, C), shifts(B, C);
    for (long b = 0; b < B; b++)
        for (long c = 0; c < C; c++) {
            const long group = b * G + c / (C / G);
            scales[b][c] = rstd[group] * weight[c];
            shifts[b][c] = bias[c] - mean[group] * scales[b][c];
        }
#pragma omp parallel for if (B * V * C >= WORTH_THREADS)
    for (long v = 0; v < B * V; v++) {
        const float *scale = scales[v / V], *shift = shifts[v / V];
        for (long c = 0; c < C; c += LANES) {
            Vec y = load(x + v * C + c, C - c) * load(scale + c) + load(shift + c);
            store(out + v * C + c, y * sigmoid(y), C - c);
        }
    }
}

// Gradients of x (in `out`), weight and bias [C]. With x̂ = (x − mean)·rstd, y = x̂·w + b and g = grad·silu'(y), that of
// x is rstd·(w·g − mean(w·g) − x̂·mean(x̂·w·g)), means over a group. Two passes: g and its sums, then the rest.
template <class T>
void norm_act_backward(const T *grad, const T *x, const float *weight, const float *bias, const float *mean,
                       const float *rstd, T *out, float *of_weight, float *of_bias, long B, long V, long C, long G) {
    const long members = C / G;
    Rows inverses(B, C), offsets(B, C), parameters(2, C);  // x̂ = x·inverse + offset
    for (long b = 0; b < B; b++)
        for (long c = 0; c < C; c++) {
            inverses[b][c] = rstd[b * G + c / members];
            offsets[b][c] = -mean[b * G + c / members] * inverses[b][c];
        }
    memcpy(parameters[0], weight, C * sizeof(float));
    memcpy(parameters[1], bias, C * sizeof(float));
    Pieces pieces(B, V, C);
#pragma omp parallel for if (B * V * C >= WORTH_THREADS)
    for (long piece = 0; piece < pieces.count(); piece++) {
        const long b = piece / pieces.each;
        for (long c = 0; c < C; c += LANES) {
            const Vec inverse = load(inverses[b] + c), offset = load(offsets[b] + c);
            const Vec w = load(parameters[0] + c), shift = load(parameters[1] + c);
            Vec s = {}, q = {};
            for (long v = pieces.from(piece); v < pieces.to(piece); v++) {
                const long at = v * C + c;
                Vec normed = load(x + at, C - c) * inverse + offset, y = normed * w + shift, p = sigmoid(y);
                Vec g = load(grad + at, C - c) * p * (1.0f + y * (1.0f - p));
                s += g;
                q += g * normed;
                store(out + at, g, C - c);
            }
            store(pieces.first[piece] + c, s);
            store(pieces.second[piece] + c, q);
        }
    }
    Rows scales(B, C), slopes(B, C), constants(B, C);
    memset(of_weight, 0, C * sizeof(float));
    memset(of_bias, 0, C * sizeof(float));
    for (long group = 0; group < B * G; group++) {
        const long b = group / G, from = group % G * members;
        double of_g = 0, of_gx = 0;
        for (long c = from; c < from + members; c++) {
            const double s = pieces.total(pieces.first, b, c), q = pieces.total(pieces.second, b, c);
            of_bias[c] += float(s);
            of_weight[c] += float(q);
            of_g += s * weight[c] / (V * members);
            of_gx += q * weight[c] / (V * members);
        }
        for (long c = from; c < from + members; c++) {
            const float inverse = inverses[b][c];
            scales[b][c] = inverse * weight[c];
            slopes[b][c] = float(-of_gx * inverse * inverse);
            constants[b][c] = float(-(of_g + of_gx * offsets[b][c]) * inverse);
        }
    }
#pragma omp parallel for if (B * V * C >= WORTH_THREADS)
    for (long v = 0; v < B * V; v++) {
        const float *scale = scales[v / V], *slope = slopes[v / V], *constant = constants[v / V];
        for (long c = 0; c < C; c += LANES) {
            const long at = v * C + c;
            Vec g = load(out + at, C - c), values = load(x + at, C - c);
            store(out + at, g * load(scale + c) + values * load(slope + c) + load(constant + c), C - c);
        }
    }
}

// --- Haar transform, sums of 2×2×2 blocks ---

// Apply f(v[i], v[j]) to all pairs of eight whose numbers differ in the bit STEP.
template <int STEP, class F> inline void pairs(Vec *v, F f) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++)
        if (!(i & STEP)) f(v[i], v[i + STEP]);
}

// The orthonormal transform of the eight values of blocks, in place; its own inverse. v[4i + 2j + k] is the value at
// (i, j, k), or band 4i + 2j + k.
inline void butterfly(Vec *v) {
    auto add_and_subtract = [](Vec &a, Vec &b) {
        const Vec difference = a - b;
        a += b;
        b = difference;
    };
    pairs<4>(v, add_and_subtract);
    pairs<2>(v, add_and_subtract);
    pairs<1>(v, add_and_subtract);
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) v[i] *= 0.35355339f;  // 1 / √8
}

// Where the eight values of a block stand in a volume [D, H, W, C] behind the first.
struct Corners {
    long at[8];
    Corners(long H, long W, long C) {
        for (long s = 0; s < 8; s++) at[s] = (((s >> 2) * H + (s >> 1 & 1)) * W + (s & 1)) * C;
    }
};

// Features [B, 2d, 2h, 2w, C] to bands [B, 8, d, h, w, C], whose first is multiplied by lll_scale; or back, where the
// first band is multiplied before.
template <bool FORWARD, class T>
void haar(T *x, T *bands, long B, long d, long h, long w, long C, float lll_scale) {
    const long V = d * h * w;
    const Corners corners(2 * h, 2 * w, C);
#pragma omp parallel for if (8 * B * V * C >= WORTH_THREADS)
    for (long row = 0; row < B * d * h; row++) {
        T *first = x + (row / h * 4 * h + row % h * 2) * 2 * w * C;  // row / h counts planes of blocks over all samples
        T *band = bands + (row / (d * h) * 8 * V + row % (d * h) * w) * C;
        for (long k = 0; k < w; k++)
            for (long c = 0; c < C; c += LANES) {
                T *block = first + 2 * k * C + c, *to = band + k * C + c;
                Vec v[8];
                for (int s = 0; s < 8; s++) v[s] = load(FORWARD ? block + corners.at[s] : to + s * V * C, C - c);
                if (!FORWARD) v[0] *= lll_scale;
                butterfly(v);
                if (FORWARD) v[0] *= lll_scale;
                for (int s = 0; s < 8; s++) store(FORWARD ? to + s * V * C : block + corners.at[s], v[s], C - c);
            }
    }
}

// a0 b0 a1 b1 … in two vectors; and back, the values of even and of odd place.
inline void zip(Vec &a, Vec &b) {
    const Ints low = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23};
    const Vec first = __builtin_shuffle(a, b, low);
    b = __builtin_shuffle(a, b, low + 8);
    a = first;
}
inline void unzip(Vec &a, Vec &b) {
    const Ints even = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    const Vec first = __builtin_shuffle(a, b, even);
    b = __builtin_shuffle(a, b, even + 1);
    a = first;
}

// The same for one channel: a volume [B, 2d, 2h, 2w] and its bands [B, d, h, w, 8], as a network takes them.
template <bool FORWARD, class T> void haar_volume(T *x, T *bands, long B, long d, long h, long w, float lll_scale) {
    const Corners corners(2 * h, 2 * w, 1);
#pragma omp parallel for if (8 * B * d * h * w >= WORTH_THREADS)
    for (long row = 0; row < B * d * h; row++)
        for (long k = 0; k < w; k += LANES) {  // sixteen blocks: eight vectors with their values in either order
            T *blocks = x + (row / h * 4 * h + row % h * 2) * 2 * w + 2 * k, *band = bands + (row * w + k) * 8;
            Vec v[8];
            if (FORWARD) {
                for (int s = 0; s < 8; s++)
                    v[s] = load(blocks + corners.at[s & 6] + (s & 1) * LANES, 2 * (w - k) - (s & 1) * LANES);
                pairs<1>(v, unzip);
                butterfly(v);
                v[0] *= lll_scale;
                pairs<4>(v, zip);
                pairs<2>(v, zip);
                pairs<1>(v, zip);
                for (int s = 0; s < 8; s++) store(band + s * LANES, v[s], 8 * (w - k) - s * LANES);
            } else {
                for (int s = 0; s < 8; s++) v[s] = load(band + s * LANES, 8 * (w - k) - s * LANES);
                pairs<1>(v, unzip);
                pairs<2>(v, unzip);
                pairs<4>(v, unzip);
                v[0] *= lll_scale;
                butterfly(v);
                pairs<1>(v, zip);
                for (int s = 0; s < 8; s++)
                    store(blocks + corners.at[s & 6] + (s & 1) * LANES, v[s], 2 * (w - k) - (s & 1) * LANES);
            }
        }
}

// Sums of 2×2×2 voxels times a factor, [B, 2d, 2h, 2w, C] -> [B, d, h, w, C].
template <class T>
void sum_blocks(const T *x, T *out, long B, long d, long h, long w, long C, float factor) {
    const Corners corners(2 * h, 2 * w, C);
#pragma omp parallel for if (8 * B * d * h * w * C >= WORTH_THREADS)
    for (long row = 0; row < B * d * h; row++)
        for (long k = 0; k < w; k++)
            for (long c = 0; c < C; c += LANES) {
                const T *block = x + ((row / h * 4 * h + row % h * 2) * 2 * w + 2 * k) * C + c;
                Vec sum = {};
                for (long corner : corners.at) sum += load(block + corner, C - c);
                store(out + (row * w + k) * C + c, sum * factor, C - c);
            }
}

}  // namespace

#define IN_PRECISION(T, name)                                                                                          \
    void norm_act_##name(const T *x, const float *weight, const float *bias, T *out, float *mean, float *rstd, long B, \
                         long V, long C, long G, float eps) {                                                          \
        norm_act(x, weight, bias, out, mean, rstd, B, V, C, G, eps);                                                   \
    }                                                                                                                  \
    void norm_act_backward_##name(const T *grad, const T *x, const float *weight, const float *bias, const float *mean, \
                                  const float *rstd, T *out, float *of_weight, float *of_bias, long B, long V, long C, \
                                  long G) {                                                                            \
        norm_act_backward(grad, x, weight, bias, mean, rstd, out, of_weight, of_bias, B, V, C, G);                     \
    }                                                                                                                  \
    void haar_##name(T *x, T *bands, long B, long d, long h, long w, long C, float lll_scale) {                        \
        C == 1 ? haar_volume<true>(x, bands, B, d, h, w, lll_scale) : haar<true>(x, bands, B, d, h, w, C, lll_scale);  \
    }                                                                                                                  \
    void inverse_haar_##name(T *x, T *bands, long B, long d, long h, long w, long C, float lll_scale) {                \
        C == 1 ? haar_volume<false>(x, bands, B, d, h, w, lll_scale) : haar<false>(x, bands, B, d, h, w, C, lll_scale); \
    }                                                                                                                  \
    void sum_blocks_##name(const T *x, T *out, long B, long d, long h, long w, long C, float factor) {                 \
        sum_blocks(x, out, B, d, h, w, C, factor);                                                                     \
    }

extern "C" {
IN_PRECISION(float, float32)
IN_PRECISION(bf16, bfloat16)
}
