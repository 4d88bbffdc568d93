/* The C ABI from C99: the full life of a layer, on the best kernel of this CPU. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qconv/qconv.h"

static int checks = 0;
static int failures = 0;

#define CHECK(condition)                                                                            \
    do {                                                                                            \
        ++checks;                                                                                   \
        if (!(condition)) {                                                                         \
            ++failures;                                                                             \
            fprintf(stderr, "%s:%d: %s is false; last error: %s\n", __FILE__, __LINE__, #condition, \
                    qconv_last_error());                                                            \
        }                                                                                           \
    } while (0)

enum { BATCH = 2, IN = 3, OUT = 5, KERNEL = 4, WIDTH = 11, WIDTH_OUT = WIDTH + 2 + 1 - KERNEL + 1 };

static float sign(float v) {
    return v >= 0 ? 1.0f : -1.0f;
}

/* y of the layer below, in plain loops: small integers, so that == is right. */
static float expected(const float *x, const float *weight, int n, int o, int w, float pad) {
    float sum = 0;
    int c, k;
    for (c = 0; c < IN; ++c) {
        for (k = 0; k < KERNEL; ++k) {
            const int at = w + k - 2;
            const float v = at >= 0 && at < WIDTH ? sign(x[(n * IN + c) * WIDTH + at]) : pad;
            sum += v * sign(weight[(o * IN + c) * KERNEL + k]);
        }
    }
    return sum;
}

static void test_layer(void) {
    float x[BATCH * IN * WIDTH], weight[OUT * IN * KERNEL], y[BATCH * OUT * WIDTH_OUT];
    qconv_layer_config config;
    qconv_layer *layer = NULL;
    const struct qconv_kernel *kernel;
    int64_t width_out = 0;
    size_t bytes = 0;
    void *memory, *workspace;
    unsigned state = 1;
    int i, n, o, w, pass;

    for (i = 0; i < BATCH * IN * WIDTH; ++i) {
        state = state * 1664525u + 1013904223u;
        x[i] = (float)(state >> 16) / 32768.0f - 1.0f;
    }
    for (i = 0; i < OUT * IN * KERNEL; ++i) {
        state = state * 1664525u + 1013904223u;
        weight[i] = (float)(state >> 16) / 32768.0f - 1.0f;
    }

    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    CHECK(config.kernel_size == 1 && config.stride == 1 && config.dilation == 1 && config.groups == 1);
    CHECK(config.pad_left == 0 && config.pad_right == 0 && config.pad_value == -1.0f && config.kernel == NULL);
    CHECK(config.input_quantization.kind == QCONV_SIGN && config.weight_quantization.kind == QCONV_SIGN);
    config.in_channels = IN;
    config.out_channels = OUT;
    config.kernel_size = KERNEL;
    config.pad_left = 2;
    config.pad_right = 1;
    config.pad_value = 0.5f;
    CHECK(qconv_layer_config_check(&config) == QCONV_OK);
    CHECK(qconv_layer_create(&config, weight, NULL, &layer) == QCONV_OK);
    if (layer == NULL) return;
    CHECK(qconv_layer_width_out(layer, WIDTH, &width_out) == QCONV_OK);
    CHECK(width_out == WIDTH_OUT);
    CHECK(qconv_layer_packed_bytes(layer) > 0);
    kernel = qconv_layer_kernel(layer, QCONV_FORWARD);
    CHECK(kernel != NULL && kernel->name != NULL && qconv_cpu_supports(kernel->target, NULL));
    CHECK(qconv_layer_workspace_size(layer, BATCH, WIDTH, &bytes) == QCONV_OK);

    memory = malloc(bytes + 63);
    CHECK(memory != NULL);
    workspace = (void *)(((uintptr_t)memory + 63) / 64 * 64);
    for (pass = 0; pass < 3; ++pass) {
        /* The layer's own workspace twice, then the caller's. */
        memset(y, 0xff, sizeof y); /* NaN */
        CHECK(qconv_layer_forward(layer, x, BATCH, WIDTH, y, pass == 2 ? workspace : NULL, pass == 2 ? bytes : 0) ==
              QCONV_OK);
        for (n = 0; n < BATCH; ++n) {
            for (o = 0; o < OUT; ++o) {
                for (w = 0; w < WIDTH_OUT; ++w) {
                    CHECK(y[(n * OUT + o) * WIDTH_OUT + w] == expected(x, weight, n, o, w, 0.5f));
                }
            }
        }
    }
    CHECK(qconv_layer_forward(layer, x, 0, WIDTH, y, NULL, 0) == QCONV_OK);
    CHECK(qconv_layer_forward(layer, x, BATCH, 0, y, NULL, 0) == QCONV_INVALID_ARGUMENT);
    CHECK(strstr(qconv_last_error(), "width") != NULL);
    free(memory);
    qconv_layer_destroy(layer);
    qconv_layer_destroy(NULL);

    /* C lets any integer into an enum: each must be refused, not followed. */
    config.input_quantization.kind = (qconv_quantizer_kind)99;
    CHECK(qconv_layer_config_check(&config) == QCONV_INVALID_ARGUMENT);
    CHECK(strstr(qconv_last_error(), "99") != NULL);
    config.kind = (qconv_layer_kind)-1;
    CHECK(qconv_layer_config_check(&config) == QCONV_INVALID_ARGUMENT);
    CHECK(qconv_quantizer_name((qconv_quantizer_kind)99) == NULL);
    CHECK(qconv_quantizer_name((qconv_quantizer_kind)-1) == NULL);
    CHECK(qconv_status_name((qconv_status)99) != NULL);
}

static int sign_of_weight(const float *weight, int o, int c, int k) {
    return weight[(o * IN + c) * KERNEL + k] >= 0 ? 1 : -1;
}

/* Output columns whose tap k reads position `at` of x, or -1. */
static int reached_by(int at, int k) {
    const int w = at - k + 2;
    return w >= 0 && w < WIDTH_OUT ? w : -1;
}

/* One training step of a sign layer against plain loops: small integers again. */
static void test_training(void) {
    float x[BATCH * IN * WIDTH], weight[OUT * IN * KERNEL], y[BATCH * OUT * WIDTH_OUT], gy[BATCH * OUT * WIDTH_OUT];
    float gx[BATCH * IN * WIDTH], gw[OUT * IN * KERNEL];
    uint32_t state[BATCH * IN * 2];
    qconv_layer_config config;
    qconv_layer *layer = NULL;
    size_t bytes = 0, workspace = 0;
    int i, n, o, c, k, at, step;

    for (i = 0; i < BATCH * IN * WIDTH; ++i)
        x[i] = (float)(i * 7 % 11 - 5) / 4.0f;
    for (i = 0; i < BATCH * OUT * WIDTH_OUT; ++i)
        gy[i] = (float)(i * 5 % 13 - 6);
    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    CHECK(config.directions == QCONV_FORWARD);
    CHECK(config.gradient_cancellation_threshold != config.gradient_cancellation_threshold);
    CHECK(config.grad_input_kernel == NULL && config.grad_weight_kernel == NULL && config.width == 0);
    config.in_channels = IN;
    config.out_channels = OUT;
    config.kernel_size = KERNEL;
    config.pad_left = 2;
    config.pad_right = 1;
    config.gradient_cancellation_threshold = 0.75f;
    config.directions = QCONV_TRAINING;
    for (i = 0; i < OUT * IN * KERNEL; ++i)
        weight[i] = (float)(i * 3 % 7 - 3);
    CHECK(qconv_layer_create(&config, weight, NULL, &layer) == QCONV_OK);
    if (layer == NULL) return;
    CHECK(qconv_layer_saved(layer) == QCONV_SAVES_STATE);
    CHECK(qconv_layer_state_size(layer, BATCH, WIDTH, &bytes) == QCONV_OK && bytes == sizeof state);
    CHECK(qconv_layer_training_workspace_size(layer, BATCH, WIDTH, &workspace) == QCONV_OK && workspace > 0);
    CHECK(qconv_layer_kernel(layer, QCONV_GRAD_INPUT) != NULL && qconv_layer_kernel(layer, QCONV_GRAD_WEIGHT) != NULL);
    for (step = 0; step < 2; ++step) {
        memset(gx, 0xff, sizeof gx);
        memset(gw, 0xff, sizeof gw);
        CHECK(qconv_layer_forward_training(layer, x, BATCH, WIDTH, y, state, sizeof state, NULL, 0) == QCONV_OK);
        CHECK(y[0] == expected(x, weight, 0, 0, 0, -1.0f));
        CHECK(qconv_layer_backward(layer, NULL, state, sizeof state, gy, BATCH, WIDTH, gx, gw, NULL, NULL, 0) ==
              QCONV_OK);
        for (n = 0; n < BATCH; ++n) {
            for (c = 0; c < IN; ++c) {
                for (at = 0; at < WIDTH; ++at) {
                    const float v = x[(n * IN + c) * WIDTH + at];
                    float sum = 0;
                    for (k = 0; k < KERNEL; ++k) {
                        for (o = 0; o < OUT && reached_by(at, k) >= 0; ++o) {
                            sum += gy[(n * OUT + o) * WIDTH_OUT + reached_by(at, k)] *
                                   (float)sign_of_weight(weight, o, c, k);
                        }
                    }
                    CHECK(gx[(n * IN + c) * WIDTH + at] == (v >= -0.75f && v <= 0.75f ? sum : 0.0f));
                }
            }
        }
        for (o = 0; o < OUT; ++o) {
            for (c = 0; c < IN; ++c) {
                for (k = 0; k < KERNEL; ++k) {
                    float sum = 0;
                    for (n = 0; n < BATCH; ++n) {
                        for (i = 0; i < WIDTH_OUT; ++i) {
                            const int from = i + k - 2;
                            const float v = from >= 0 && from < WIDTH ? sign(x[(n * IN + c) * WIDTH + from]) : -1.0f;
                            sum += gy[(n * OUT + o) * WIDTH_OUT + i] * v;
                        }
                    }
                    CHECK(gw[(o * IN + c) * KERNEL + k] == sum);
                }
            }
        }
        /* The same layer, with other weights. */
        for (i = 0; i < OUT * IN * KERNEL; ++i)
            weight[i] = (float)(i * 5 % 9 - 4);
        CHECK(qconv_layer_set_weights(layer, weight, NULL) == QCONV_OK);
    }
    CHECK(qconv_layer_backward(layer, NULL, NULL, 0, gy, BATCH, WIDTH, gx, gw, NULL, NULL, 0) ==
          QCONV_INVALID_ARGUMENT);
    CHECK(strstr(qconv_last_error(), "state") != NULL);
    qconv_layer_destroy(layer);
}

static void test_nothing_registered(void) {
    const float weight = 1;
    qconv_layer_config config;
    qconv_layer *layer = NULL;
    CHECK(qconv_kernel_count() == 0 && qconv_kernel_at(0) == NULL);
    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    CHECK(qconv_layer_create(&config, &weight, NULL, &layer) == QCONV_NO_KERNEL);
    CHECK(strstr(qconv_last_error(), "register") != NULL);
    CHECK(layer == NULL);
}

static void test_registry(void) {
    const size_t count = qconv_kernel_count();
    size_t i;
    CHECK(count > 0);
    for (i = 0; i < count; ++i) {
        const qconv_kernel *kernel = qconv_kernel_at(i);
        CHECK(kernel != NULL && kernel->name != NULL && kernel->target != NULL && kernel->call != NULL);
        CHECK(qconv_path_name(kernel->path) != NULL);
        CHECK(qconv_op_name(kernel->op) != NULL);
    }
    CHECK(qconv_kernel_at(count) == NULL);
    CHECK(strcmp(qconv_op_name(QCONV_OP_SAVE_STATE), "save_state") == 0 && qconv_op_name(QCONV_OPS) == NULL);
    CHECK(qconv_register_generic_kernels() == QCONV_OK);
    CHECK(qconv_kernel_count() == count);
}

static void test_cpu(void) {
    const char *missing = "unset";
#if defined(__x86_64__)
    const char *const baseline = "sse41";
#elif defined(__aarch64__)
    const char *const baseline = "arm64";
#else
    const char *const baseline = "arm32";
#endif
    CHECK(qconv_cpu_supports(baseline, &missing) != 0);
    CHECK(missing != NULL && strcmp(missing, "") == 0);
    CHECK(qconv_cpu_supports("z80", &missing) == 0);
    CHECK(qconv_cpu_supports("avx2", NULL) == 0 || qconv_cpu_supports("sse41", NULL) != 0);
    CHECK(qconv_cpu_supports("arm64_dotprod", NULL) == 0 || qconv_cpu_supports("arm64", NULL) != 0);
}

int main(void) {
    CHECK(strcmp(qconv_last_error(), "") == 0);
    test_nothing_registered();
    CHECK(qconv_register_generic_kernels() == QCONV_OK);
    test_registry();
    test_cpu();
    test_layer();
    test_training();
    CHECK(qconv_set_num_threads(2) == QCONV_OK && qconv_get_num_threads() == 2);
    test_layer();
    test_training();
    printf("c_api: %d checks, %d failed\n", checks, failures);
    return failures == 0 ? 0 : 1;
}
