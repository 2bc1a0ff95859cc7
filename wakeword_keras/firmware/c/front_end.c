/* See front_end.h. After TensorFlow's tensorflow/lite/experimental/microfrontend/lib (Apache
 * License 2.0) and kissfft (BSD-3-Clause), whose arithmetic this is: LICENCES.txt. Right shifts of negative numbers and
 * conversions to int16_t wrap as on every compiler that TFLite Micro supports. */
#include "front_end.h"

#include <string.h>

#define HALF (WAKEWORD_FFT_SIZE / 2)

static int16_t wrap(int32_t value) { return (int16_t)(uint16_t)(uint32_t)value; }

/* The highest set bit, counted from 1; 0 of 0. */
static int bits_of(uint64_t value) {
  int bits = 0;
  while (value) {
    value >>= 1;
    ++bits;
  }
  return bits;
}

/* Window the samples. Returns the largest absolute value. */
static int16_t apply_window(wakeword_front_end *front_end) {
  int i;
  int16_t largest = 0;
  for (i = 0; i < WAKEWORD_WINDOW_SAMPLES; ++i) {
    int16_t value =
        wrap(((int32_t)front_end->samples[i] * wakeword_window[i]) >> WAKEWORD_WINDOW_BITS);
    front_end->windowed[i] = value;
    if (value < 0) value = wrap(-(int32_t)value);
    if (value > largest) largest = value;
  }
  return largest;
}

static int16_t rounded(int32_t product) { return wrap((product + (1 << 14)) >> 15); }

static wakeword_complex times(wakeword_complex a, const int16_t *turn) {
  wakeword_complex product;
  product.real = rounded((int32_t)a.real * turn[0] - (int32_t)a.imaginary * turn[1]);
  product.imaginary = rounded((int32_t)a.real * turn[1] + (int32_t)a.imaginary * turn[0]);
  return product;
}

static wakeword_complex divided(wakeword_complex a, int16_t divisor) {
  wakeword_complex quotient;
  quotient.real = rounded((int32_t)a.real * (32767 / divisor));
  quotient.imaginary = rounded((int32_t)a.imaginary * (32767 / divisor));
  return quotient;
}

static wakeword_complex sum(wakeword_complex a, wakeword_complex b) {
  wakeword_complex result;
  result.real = wrap((int32_t)a.real + b.real);
  result.imaginary = wrap((int32_t)a.imaginary + b.imaginary);
  return result;
}

static wakeword_complex difference(wakeword_complex a, wakeword_complex b) {
  wakeword_complex result;
  result.real = wrap((int32_t)a.real - b.real);
  result.imaginary = wrap((int32_t)a.imaginary - b.imaginary);
  return result;
}

/* One butterfly of four; `m` lies between its elements, `turn` between its twiddles. */
static void butterfly(wakeword_complex *at, int m, int turn) {
  const wakeword_complex first = divided(at[0], 4);
  const wakeword_complex a = times(divided(at[m], 4), wakeword_twiddles[turn]);
  const wakeword_complex b = times(divided(at[2 * m], 4), wakeword_twiddles[2 * turn]);
  const wakeword_complex c = times(divided(at[3 * m], 4), wakeword_twiddles[3 * turn]);
  const wakeword_complex even = sum(first, b), odd = difference(first, b);
  const wakeword_complex both = sum(a, c), apart = difference(a, c);
  at[0] = sum(even, both);
  at[2 * m] = difference(even, both);
  at[m].real = wrap((int32_t)odd.real + apart.imaginary);
  at[m].imaginary = wrap((int32_t)odd.imaginary - apart.real);
  at[3 * m].real = wrap((int32_t)odd.real - apart.imaginary);
  at[3 * m].imaginary = wrap((int32_t)odd.imaginary + apart.real);
}

/* The transform of HALF complex numbers, a power of four; each pass divides by four. */
static void transform(const int16_t *samples, wakeword_complex *out) {
  int i, m, start, digits;
  for (i = 0; i < HALF; ++i) {
    int source = 0, rest = i;
    for (digits = 1; digits < HALF; digits *= 4) {
      source = 4 * source + rest % 4;
      rest /= 4;
    }
    out[i].real = samples[2 * source];
    out[i].imaginary = samples[2 * source + 1];
  }
  for (m = 1; m < HALF; m *= 4) {
    for (start = 0; start < HALF; start += 4 * m) {
      for (i = 0; i < m; ++i) butterfly(out + start + i, m, i * (HALF / (4 * m)));
    }
  }
}

static uint32_t energy_of(int32_t real, int32_t imaginary) {
  return (uint32_t)(real * real) + (uint32_t)(imaginary * imaginary);
}

/* Energies of the bins of the real transform that channels read; the others are 0. */
static void spectrum(wakeword_front_end *front_end) {
  int k;
  transform(front_end->windowed, front_end->half);
  memset(front_end->energy, 0, sizeof(front_end->energy));
  for (k = 1; k <= HALF / 2; ++k) {
    const wakeword_complex at = divided(front_end->half[k], 2);
    wakeword_complex mirror = front_end->half[HALF - k], both, tw;
    mirror.imaginary = wrap(-(int32_t)mirror.imaginary);
    mirror = divided(mirror, 2);
    both = sum(at, mirror);
    tw = times(difference(at, mirror), wakeword_real_twiddles[k - 1]);
    front_end->energy[k] = energy_of((both.real + tw.real) >> 1, (both.imaginary + tw.imaginary) >> 1);
    front_end->energy[HALF - k] =
        energy_of((both.real - tw.real) >> 1, (tw.imaginary - both.imaginary) >> 1);
  }
  for (k = 0; k <= HALF; ++k) {
    if (k < WAKEWORD_FIRST_BIN || k >= WAKEWORD_LAST_BIN) front_end->energy[k] = 0;
  }
}

/* Rounded square root; below 2^32 its result stays below 2^16. */
static uint32_t square_root(uint64_t number) {
  const uint64_t most = number >> 32 ? 0xFFFFFFFFu : 0xFFFFu;
  uint64_t root = 0, bit;
  if (number == 0) return 0;
  bit = (uint64_t)1 << ((bits_of(number) - 1) & ~1);
  for (; bit; bit >>= 2) {
    if (number >= root + bit) {
      number -= root + bit;
      root = (root >> 1) + bit;
    } else {
      root >>= 1;
    }
  }
  if (number > root && root != most) ++root;
  return (uint32_t)root;
}

/* Magnitudes of the channels. */
static void filterbank(wakeword_front_end *front_end, int scale_shift) {
  uint64_t rising = 0, falling = 0;
  int channel, i;
  for (channel = 0; channel <= WAKEWORD_CHANNELS; ++channel) {
    const uint32_t *energy = front_end->energy + wakeword_frequency_starts[channel];
    const int16_t *up = wakeword_weights + wakeword_weight_starts[channel];
    const int16_t *down = wakeword_unweights + wakeword_weight_starts[channel];
    for (i = 0; i < wakeword_widths[channel]; ++i) {
      rising += (uint64_t)up[i] * energy[i];
      falling += (uint64_t)down[i] * energy[i];
    }
    if (channel > 0) front_end->signal[channel - 1] = square_root(rising) >> scale_shift;
    rising = falling;
    falling = 0;
  }
}

/* Take the running estimate of the noise from a channel. */
static uint32_t without_noise(uint32_t signal, uint32_t *noise, uint32_t smoothing) {
  const uint32_t one = (uint32_t)1 << WAKEWORD_NOISE_BITS;
  const uint32_t scaled = signal << WAKEWORD_SMOOTHING_BITS;
  const uint32_t least =
      (uint32_t)(((uint64_t)signal * WAKEWORD_MIN_SIGNAL_REMAINING) >> WAKEWORD_NOISE_BITS);
  uint32_t estimate =
      (uint32_t)(((uint64_t)scaled * smoothing + (uint64_t)*noise * (one - smoothing)) >>
                 WAKEWORD_NOISE_BITS);
  uint32_t rest;
  *noise = estimate;
  if (estimate > scaled) estimate = scaled;
  rest = (scaled - estimate) >> WAKEWORD_SMOOTHING_BITS;
  return rest > least ? rest : least;
}

/* The gain that belongs to a noise estimate, from pieces of parabolas. */
static uint32_t gain_of(uint32_t noise) {
  const int16_t *piece;
  int32_t fraction, gain;
  int interval;
  if (noise <= 2) return (uint32_t)wakeword_gain[noise];
  interval = bits_of(noise);
  piece = wakeword_gain + 4 * interval - 6;
  fraction = (int32_t)((interval < 11 ? noise << (11 - interval) : noise >> (interval - 11)) & 0x3FF);
  gain = ((int32_t)piece[2] * fraction) >> 5;
  gain += (int32_t)piece[1] * 32;
  gain = (gain * fraction + (1 << 14)) >> 15;
  return (uint32_t)(int32_t)wrap(gain + piece[0]);
}

static uint32_t compressed(uint32_t signal, uint32_t noise) {
  const uint32_t ratio = (uint32_t)(((uint64_t)signal * gain_of(noise)) >> WAKEWORD_SNR_SHIFT);
  if (ratio < (2u << WAKEWORD_SNR_BITS)) {
    return (ratio * ratio) >> (2 + 2 * WAKEWORD_SNR_BITS - WAKEWORD_PCAN_BITS);
  }
  return (ratio >> (WAKEWORD_SNR_BITS - WAKEWORD_PCAN_BITS)) - (1u << WAKEWORD_PCAN_BITS);
}

/* The natural logarithm, scaled by 2^WAKEWORD_LOG_SCALE_SHIFT. */
static uint32_t logarithm(uint32_t value) {
  const int whole = bits_of(value) - 1;
  uint32_t fraction = value - ((uint32_t)1 << whole), segment, log2;
  int32_t low, high, between;
  fraction = whole < 16 ? fraction << (16 - whole) : fraction >> (whole - 16);
  segment = fraction >> 9;
  low = wakeword_log[segment];
  high = wakeword_log[segment + 1];
  between = ((high - low) * (int32_t)(fraction - (segment << 9))) >> 16;
  log2 = ((uint32_t)whole << 16) + fraction + (uint32_t)(low + between);
  value = (uint32_t)(((uint64_t)45426u * log2 + 32768u) >> 16); /* ln 2 */
  return ((value << WAKEWORD_LOG_SCALE_SHIFT) + 32768u) >> 16;
}

void wakeword_front_end_reset(wakeword_front_end *front_end) {
  memset(front_end, 0, sizeof(*front_end));
}

int wakeword_front_end_step(wakeword_front_end *front_end, const int16_t *samples,
                            uint16_t *features) {
  int i, shift;
  memcpy(front_end->samples + front_end->used, samples, WAKEWORD_STEP_SAMPLES * sizeof(*samples));
  front_end->used += WAKEWORD_STEP_SAMPLES;
  if (front_end->used < WAKEWORD_WINDOW_SAMPLES) return 0;
  shift = 15 - bits_of((uint64_t)apply_window(front_end));
  front_end->used -= WAKEWORD_STEP_SAMPLES;
  memmove(front_end->samples, front_end->samples + WAKEWORD_STEP_SAMPLES,
          front_end->used * sizeof(*samples));
  for (i = 0; i < WAKEWORD_WINDOW_SAMPLES; ++i) {
    front_end->windowed[i] = wrap((int32_t)((uint32_t)(uint16_t)front_end->windowed[i] << shift));
  }
  spectrum(front_end);
  filterbank(front_end, shift);
  for (i = 0; i < WAKEWORD_CHANNELS; ++i) {
    const uint32_t smoothing = i % 2 ? WAKEWORD_ODD_SMOOTHING : WAKEWORD_EVEN_SMOOTHING;
    const uint32_t signal = without_noise(front_end->signal[i], &front_end->noise[i], smoothing);
    const uint32_t value = compressed(signal, front_end->noise[i]) << WAKEWORD_LOG_SHIFT;
    const uint32_t feature = value > 1 ? logarithm(value) : 0;
    features[i] = (uint16_t)(feature < 65535u ? feature : 65535u);
  }
  return 1;
}
