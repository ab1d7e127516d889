// Products of matrices for layers (layer.c): both factors are in the cache already, and one of them,
// b, serves many times, so it is brought into panels once. T stands in front of this file.

#include <stdint.h>

// Vectors of 32 bytes; in each row a panel has two of them, the last one up to three. Sums of so many
// rows of two, or of three, fit into sixteen registers with what is added to them.
enum { LANES = 32 / sizeof(T), ROWS_OF_TWO = 6, ROWS_OF_THREE = 4 };
typedef T Lanes __attribute__((vector_size(32)));
typedef T Anywhere __attribute__((vector_size(32), aligned(sizeof(T)), may_alias));
#define UNROLL _Pragma("GCC unroll 8")

// How many vectors the panel has that begins where so many columns are left, at least LANES; the last
// one ends with the columns, and has some of the one before it again where they are no multiple.
static int64_t vectors_of(int64_t left)
{
  return left > 3 * LANES ? 2 : (left + LANES - 1) / LANES;
}

// Whether this was found to be faster than the library that PyTorch brings, which on processors of
// AMD does without its best functions.
void is_faster(int64_t *answer)
{
#if defined(__x86_64__) && defined(__AVX2__) && defined(__FMA__)
  *answer = __builtin_cpu_is("amd");
#else
  *answer = 0;
#endif
}

// b (depth, columns), or its transpose (columns, depth), in panels.
void fill_panels(const T *b, int64_t depth, int64_t columns, int64_t transposed, T *to)
{
  for (int64_t j = 0, vectors; j < columns; j += vectors * LANES) {
    vectors = vectors_of(columns - j);
    for (int64_t k = 0; k < depth; k++)
      for (int64_t v = 0; v < vectors; v++, to += LANES) {
        const int64_t first = j + v * LANES < columns - LANES ? j + v * LANES : columns - LANES;
        if (!transposed)
          __builtin_memcpy(to, b + k * columns + first, LANES * sizeof(T));
        else
          for (int64_t i = 0; i < LANES; i++) to[i] = b[(first + i) * depth + k];
      }
  }
}

// The factor a, a_ik = at[i * row + k * column].
typedef struct { const T *at; int64_t row, column, depth; } Left;

// c = bias + a b, or c += a b, of m rows and the columns of a panel, of which the last vector begins
// at `last`.
static inline __attribute__((always_inline)) void tile(
  const int m, const int vectors, Left a, const T *panel, int64_t last, const T *bias, int more,
  T *c, int64_t width)
{
  Lanes sums[ROWS_OF_TWO][3];
  UNROLL for (int r = 0; r < m; r++) {
    __builtin_prefetch(c + r * width, 1);
    UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = (Lanes){0};
  }
  for (int64_t k = 0; k < a.depth; k++, a.at += a.column, panel += vectors * LANES)
    UNROLL for (int r = 0; r < m; r++)
      UNROLL for (int v = 0; v < vectors; v++)
        sums[r][v] += a.at[r * a.row] * *(const Anywhere *)(panel + v * LANES);
#define AT(v) (v < vectors - 1 ? v * LANES : last)
  UNROLL for (int r = 0; r < m; r++) {
    UNROLL for (int v = 0; v < vectors; v++) {
      if (bias) sums[r][v] += *(const Anywhere *)(bias + AT(v));
      if (more) sums[r][v] += *(const Anywhere *)(c + r * width + AT(v));
    }
    UNROLL for (int v = 0; v < vectors; v++)
      *(Anywhere *)(c + r * width + AT(v)) = sums[r][v];
  }
}

// Functions of their own: compilers keep the sums of one in registers, but not of several.
#define TILE(m, vectors)                                                              \
  static __attribute__((noinline)) void tile_##m##_##vectors(                         \
    const Left *a, const T *panel, int64_t last, const T *bias, int more, T *c,       \
    int64_t width)                                                                    \
  {                                                                                   \
    tile(m, vectors, *a, panel, last, bias, more, c, width);                          \
  }
#define TWO(m) TILE(m, 1) TILE(m, 2)
#define THREE(m) TWO(m) TILE(m, 3)
THREE(1) THREE(2) THREE(3) THREE(4) TWO(5) TWO(6)
#define TWO_OF(m) tile_##m##_1, tile_##m##_2
#define THREE_OF(m) TWO_OF(m), tile_##m##_3
static void (*const tiles[][3])(const Left *, const T *, int64_t, const T *, int, T *, int64_t) = {
  {THREE_OF(1)}, {THREE_OF(2)}, {THREE_OF(3)}, {THREE_OF(4)}, {TWO_OF(5)}, {TWO_OF(6)},
};

// c (rows, width) = bias + a b, bias may be 0, or, with `more`, c += a b; b in panels.
void times_panels(int64_t rows, int64_t width, int64_t depth, const T *at, int64_t row,
                  int64_t column, const T *panels, const T *bias, int64_t more, T *c)
{
  for (int64_t j = 0, vectors; j < width; j += vectors * LANES) {
    const int64_t left = width - j;
    vectors = vectors_of(left);
    const int64_t last = (left < vectors * LANES ? left : vectors * LANES) - LANES;
    const int64_t most = vectors == 3 ? ROWS_OF_THREE : ROWS_OF_TWO;
    for (int64_t i = 0, m; i < rows; i += m) {
      const Left a = {at + i * row, row, column, depth};
      m = rows - i < most ? rows - i : most;
      tiles[m - 1][vectors - 1](
        &a, panels, last, bias ? bias + j : 0, more, c + i * width + j, width);
    }
    panels += depth * vectors * LANES;
  }
}
