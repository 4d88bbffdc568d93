/* One compiled layer in a plain C program, checked against the loops it stands for. */
#include <stdio.h>

/* The Makefile names the target and the header that qconvc wrote for it: avx2 and "layer_avx2.h". */
#include LAYER_HEADER
#include "qconv/qconv.h"

#define EXPAND(macro, ...) macro(__VA_ARGS__)
#define TEXT(name) #name
#define REGISTER(target) layer_##target##_register

enum { CHANNELS = 64, KERNEL_SIZE = 3, WIDTH = 100 };

static float weight[CHANNELS * CHANNELS * KERNEL_SIZE], x[CHANNELS * WIDTH], y[CHANNELS * WIDTH];

static float sign(float v) {
    return v >= 0 ? 1.0f : -1.0f;
}

/* Output channel o at position w, by the definition: quantize, pad with -1, convolve. */
static float expected(int o, int w) {
    float sum = 0;
    for (int c = 0; c < CHANNELS; c++) {
        for (int k = 0; k < KERNEL_SIZE; k++) {
            const int at = w + k - 1;
            const float input = at < 0 || at >= WIDTH ? -1.0f : sign(x[c * WIDTH + at]);
            sum += input * sign(weight[(o * CHANNELS + c) * KERNEL_SIZE + k]);
        }
    }
    return sum;
}

static int fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, qconv_last_error());
    return 1;
}

int main(void) {
    const char *missing = "";
    qconv_layer_config config;
    qconv_layer *layer = NULL;
    unsigned state = 1;
    int wrong = 0;

    if (!qconv_cpu_supports(EXPAND(TEXT, TARGET), &missing)) {
        fprintf(stderr, "this CPU lacks %s\n", missing);
        return 1;
    }
    if (EXPAND(REGISTER, TARGET)() != QCONV_OK) return fail("register");

    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D); /* sign on both sides, pad_value -1 */
    config.in_channels = config.out_channels = CHANNELS;
    config.kernel_size = KERNEL_SIZE;
    qconv_layer_config_pad_same(&config);

    for (int i = 0; i < CHANNELS * CHANNELS * KERNEL_SIZE; i++) {
        state = state * 1664525u + 1013904223u;
        weight[i] = (float)(int)(state >> 16 & 255) - 127.5f;
        if (i < CHANNELS * WIDTH) x[i] = (float)(int)(state >> 24) - 127.5f;
    }
    if (qconv_layer_create(&config, weight, NULL, &layer) != QCONV_OK) return fail("create");
    if (qconv_layer_forward(layer, x, 1, WIDTH, y, NULL, 0) != QCONV_OK) return fail("forward");

    for (int o = 0; o < CHANNELS; o++) {
        for (int w = 0; w < WIDTH; w++)
            wrong += y[o * WIDTH + w] != expected(o, w);
    }
    printf("kernel %s: %d of %d outputs wrong\n", qconv_layer_kernel(layer, QCONV_FORWARD)->name, wrong,
           CHANNELS * WIDTH);
    qconv_layer_destroy(layer);
    return wrong != 0;
}
