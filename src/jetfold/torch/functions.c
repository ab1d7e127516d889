// Functions of a number of type T in the loops: called one array after the other, PyTorch's take as
// long as all the rest of a loop. Without branches, so that a compiler makes vectors of them.
//
// Polynomials have the least largest relative error of what they stand for (Remez), 1/16 of the last
// place or less. Tables of a type: its digits, how it writes the exponent of 1, where functions end
// that leave it, constants in parts whose products with small integers are exact, and coefficients,
// the highest first.

#if DOUBLE
typedef int64_t Integer;
typedef uint64_t Natural;
#define TYPED(name) name
#define DIGITS 52
#define ONE 1023
#define EXP_LEAST -746
#define EXP_MOST 711
#define TANH_MOST 19.1
#define ERF_MOST 5.93
#define LOG_2(part) part(0.693147180369123816490) part(1.90821492927058770002e-10)
#define HALF_PI(part)                                                           \
  part(1.5707963267341256) part(6.077100506303966e-11) part(2.0222662487959506e-21)
#define WAVE_MOST 1e6
#define EXP_TERMS(first, next)                                                  \
  first(1.7687706916149596094e-9) next(2.5105194221268971881e-8)                \
  next(2.7567927244993483349e-7) next(2.7557255461775210646e-6)                 \
  next(2.4801574538026560069e-5) next(1.9841269874765170516e-4)                 \
  next(1.3888888895597163567e-3) next(8.3333333333261536222e-3)                 \
  next(4.1666666666652289439e-2) next(1.6666666666666670974e-1)                 \
  next(5.000000000000000862e-1)
#define LOG_TERMS(first, next)                                                  \
  first(8.1108840977948857989e-8) next(1.591677027728340985e-7)                 \
  next(9.235339977356824766e-7) next(4.0591801135555467536e-6)                  \
  next(0.000018782407703928564007) next(0.000088778049214648052429)             \
  next(0.00043402781159460680869) next(0.0022321428553217225466)                \
  next(0.012500000000048473661) next(0.083333333333332887129)
#define SIN_TERMS(first, next)                                                  \
  first(1.589590476668549285e-10) next(-2.5050742308310163627e-8)               \
  next(2.7557313587621487513e-6) next(-1.9841269829495498635e-4)                \
  next(8.3333333333220055072e-3) next(-1.6666666666666630294e-1)
#define COS_TERMS(first, next)                                                  \
  first(-1.1358310483385781786e-11) next(2.0875696572505452088e-9)              \
  next(-2.7557314148623462082e-7) next(2.4801587288748189764e-5)                \
  next(-1.3888888888872895132e-3) next(4.1666666666666592018e-2)                \
  next(-0.5)
#define ERF_TERMS(first, next)                                                  \
  first(7.840463308335795081e-16) next(-3.8534110659300005954e-14)              \
  next(8.8517502709649709361e-13) next(-1.2619186423597601554e-11)              \
  next(1.2491633305134494567e-10) next(-9.0873413837130445317e-10)              \
  next(5.0003590828521481621e-9) next(-2.0973436336687212516e-8)                \
  next(6.5768279730359781133e-8) next(-1.4185190462350121808e-7)                \
  next(1.373694360188432071e-7) next(3.3604997226657551849e-7)                  \
  next(-1.7411215406922576932e-6) next(2.8346773886984993128e-6)                \
  next(3.4076666760982138404e-6) next(-0.000029724320888286784038)              \
  next(0.00006449200748355366288) next(0.000025878544409874988571)              \
  next(-0.00059012553466206861852) next(0.0016962063817447851598)               \
  next(-0.00020919469423998035669) next(-0.019128447005128369579)               \
  next(0.10277260330179195591) next(0.63661977236758352716)                     \
  next(0.1283791670955125689)
#else
typedef int32_t Integer;
typedef uint32_t Natural;
#define TYPED(name) name##f
#define DIGITS 23
#define ONE 127
#define EXP_LEAST -104
#define EXP_MOST 90
#define TANH_MOST 9.02f
#define ERF_MOST 3.95f
#define LOG_2(part) part(0.693359375f) part(-2.12194440e-4f)
#define HALF_PI(part)                                                           \
  part(1.570556641f) part(2.396702766e-4f) part(1.589069143e-8f) part(2.563344068e-12f)
#define WAVE_MOST 3000
#define EXP_TERMS(first, next)                                                  \
  first(0.000199621724084f) next(0.00139432092962f) next(0.00833321999988f)     \
  next(0.041666326984f) next(0.166666669025f) next(0.500000005306f)
#define LOG_TERMS(first, next)                                                  \
  first(0.000547109129955f) next(0.00218764102961f) next(0.0125067272626f)      \
  next(0.0833330203573f)
#define SIN_TERMS(first, next)                                                  \
  first(-0.000195146319369f) next(0.0083321560542f) next(-0.166666545366f)
#define COS_TERMS(first, next)                                                  \
  first(2.44324129977e-5f) next(-0.00138873098667f) next(0.0416666455545f)      \
  next(-0.5f)
#define ERF_TERMS(first, next)                                                  \
  first(1.19150323981e-6f) next(-2.13358408953e-5f) next(0.000167400693887f)    \
  next(-0.000740503345996f) next(0.00179911448846f) next(-0.000252877436088f)   \
  next(-0.0191177747559f) next(0.102771295272f) next(0.636619832788f)           \
  next(0.12837916668f)
#endif

typedef union { T x; Natural bits; } Bits;

#define FUNCTION static inline __attribute__((always_inline))
#define FIRST(c) T sum = c;
#define NEXT(c) sum = sum * x + c;
#define LESS(part) rest -= n * part;

FUNCTION T exp_terms(T x) { EXP_TERMS(FIRST, NEXT) return sum; }
FUNCTION T log_terms(T x) { LOG_TERMS(FIRST, NEXT) return sum; }
FUNCTION T erf_terms(T x) { ERF_TERMS(FIRST, NEXT) return sum; }
FUNCTION T sin_terms(T x) { SIN_TERMS(FIRST, NEXT) return sum; }
FUNCTION T cos_terms(T x) { COS_TERMS(FIRST, NEXT) return sum; }
#undef FIRST
#undef NEXT

FUNCTION T absolute(T u) { return TYPED(__builtin_fabs)(u); }

FUNCTION T power_of_two(Integer k)
{
  const Bits power = {.bits = (Natural)(k + ONE) << DIGITS};
  return power.x;
}

// The integer next to x: it stands in the last bits of x + 3/2 · 2^DIGITS.
FUNCTION T nearest(T x, Integer *integer)
{
  const Bits shift = {.bits = (Natural)(ONE + DIGITS) << DIGITS | (Natural)1 << (DIGITS - 1)};
  const Bits sum = {x + shift.x};
  *integer = (Integer)(sum.bits - shift.bits);
  return sum.x - shift.x;
}

// ------------------------------------------------------------------ exponentials
//
// e^u = 2^k (1 + p), where u = k log 2 + r with |r| ≤ (log 2)/2, and p = e^r − 1 = r + r² q(r).

FUNCTION T reduced(T u, Integer *k)
{
  T rest = u;
  const T n = nearest(u * (T)1.4426950408889634, k);
  LOG_2(LESS)
  return rest + rest * rest * exp_terms(rest);
}

// 2^k = 2^a 2^b: one of them may be no number of the type where their product with another is.
FUNCTION T halves(Integer k, Integer *b)
{
  const Integer a = (Integer)((Natural)(k + 2 * ONE) >> 1) - ONE;
  *b = k - a;
  return power_of_two(a);
}

// e^u/2^less.
FUNCTION T exponential(T u, Integer less)
{
  T x = u > EXP_MOST ? EXP_MOST : u;
  x = x < EXP_LEAST ? EXP_LEAST : x;
  Integer k, b;
  const T p = reduced(x, &k), power = halves(k - less, &b);
  return (power + power * p) * power_of_two(b);
}

FUNCTION T exp_T(T u) { return exponential(u, 0); }

// Of e^{−|u|}, which is at most 1.
FUNCTION T sigmoid_T(T u)
{
  const T e = exp_T(-absolute(u));
  return (u < 0 ? e : 1) / (1 + e);
}

// u where u > 20, as in PyTorch, else max(u, 0) + log(1 + e), e = e^{−|u|}: that is w + w³ q(w²)
// with w = 2e/(2 + e), twice the inverse hyperbolic tangent of w/2 ≤ 1/3.
FUNCTION T softplus_T(T u)
{
  const T e = exp_T(-absolute(u)), w = (e + e) / (2 + e), square = w * w;
  const T log = w + w * square * log_terms(square);
  return u > 20 ? u : (u > 0 ? u : 0) + log;
}

// e^u − 1 = 2^k p + (2^k − 1), in which nothing cancels; for u of moderate size.
FUNCTION T small_expm1(T u)
{
  Integer k;
  const T p = reduced(u, &k), power = power_of_two(k);
  return power * p + (power - 1);
}

// m/(m + 2) with m = e^{2|u|} − 1.
FUNCTION T tanh_T(T u)
{
  const T a = absolute(u), m = small_expm1(2 * (a > TANH_MOST ? TANH_MOST : a));
  return TYPED(__builtin_copysign)(m / (m + 2), u);
}

// 1 − e^{−a − a q(a)} with a = |u|.
FUNCTION T erf_T(T u)
{
  const T a = absolute(u), least = a > ERF_MOST ? ERF_MOST : a;
  return TYPED(__builtin_copysign)(small_expm1(-(least + least * erf_terms(least))), u);
}

// h + h/(2h + 1) with h = (e^{|u|} − 1)/2.
FUNCTION T sinh_T(T u)
{
  const T a = absolute(u);
  Integer k, b;
  const T p = reduced(a > EXP_MOST ? EXP_MOST : a, &k), power = halves(k - 1, &b);
  const T h = (power * p + (power - power_of_two(-1 - b))) * power_of_two(b);
  const T least = h < (T)1e30 ? h : (T)1e30;
  return TYPED(__builtin_copysign)(h + least / (2 * least + 1), u);
}

FUNCTION T cosh_T(T u)
{
  const T half = exponential(absolute(u), 1);
  return half + (T)0.25 / half;
}

// ------------------------------------------------------------------ sine and cosine
//
// By quadrants: u = n π/2 + r with |r| ≤ π/4, for |u| ≤ WAVE_MOST. Rows of numbers with a larger one
// take the same loop with `exact` set (loops.py): then these are the functions of the C library.

static int within(const T *u, int64_t count)
{
  Integer larger = 0;
  for (int64_t i = 0; i < count; i++) larger |= !(absolute(u[i]) <= WAVE_MOST);  // or no number
  return !larger;
}

// sin(u + quadrants π/2); of −0 it is −0, as the parts of π/2 are positive.
FUNCTION T wave(T u, Integer quadrants)
{
  Integer quadrant;
  T rest = u;
  const T n = nearest(u * (T)0.6366197723675814, &quadrant);
  HALF_PI(LESS)
  const T square = rest * rest;
  const T sin = rest * (1 + square * sin_terms(square)), cos = 1 + square * cos_terms(square);
  quadrant += quadrants;
  Bits y = {quadrant & 1 ? cos : sin};
  y.bits ^= (Natural)(quadrant & 2) << (8 * sizeof(T) - 2);
  return y.x;
}

#define sin_T(u) (exact ? TYPED(__builtin_sin)(u) : wave(u, 0))
#define cos_T(u) (exact ? TYPED(__builtin_cos)(u) : wave(u, 1))

#undef DIGITS
#undef ONE
#undef FUNCTION
#undef LESS
