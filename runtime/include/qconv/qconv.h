/* qconv: quantized 1-D convolution layers on ahead-of-time compiled kernels. C ABI.
 *
 * Conventions, for every function here:
 *   - Tensors are PyTorch's: x [batch, in_channels, width], weight [out_channels, in_channels/groups, kernel_size],
 *     bias [out_channels], y [batch, out_channels, width_out]; float32, C order, no gaps.
 *   - Functions return a status; QCONV_OK is 0. On any other status qconv_last_error() says, for the calling thread,
 *     which field was wrong, its value, and what is allowed. Outputs are then untouched.
 *   - No C++ exception leaves the library. Every function may be called from several threads at once, one layer
 * included.
 */
#ifndef QCONV_QCONV_H
#define QCONV_QCONV_H

#include <stddef.h>
#include <stdint.h>

/* Of this header; qconv_version() gives that of the library linked. */
#define QCONV_VERSION "0.1.0"

/* What C takes for an enumeration, said to C++, which else may take any value for one that the enumeration has. */
#ifdef __cplusplus
#define QCONV_ENUM_TYPE : int
extern "C" {
#else
#define QCONV_ENUM_TYPE
#endif

typedef enum qconv_status QCONV_ENUM_TYPE {
    QCONV_OK = 0,
    QCONV_INVALID_ARGUMENT = 1, /* a field, size or pointer is out of its range */
    QCONV_NO_KERNEL = 2,        /* no registered kernel serves this layer on this CPU */
    QCONV_UNSUPPORTED_CPU = 3,  /* a forced kernel needs CPU features that are missing */
    QCONV_OUT_OF_MEMORY = 4,
    QCONV_WORKSPACE_TOO_SMALL = 5,
    QCONV_INTERNAL = 6,  /* a kernel or an invariant failed: a defect, please report it */
    QCONV_NO_DEVICE = 7, /* no GPU of that kind can be used here: no driver, an old one, no GPU, or no support linked */
    QCONV_DEVICE_FAILED = 8 /* the GPU or its driver reported a failure */
} qconv_status;

/* Text of the last failure on this thread; "" when there was none. Valid until the next qconv call on this thread. */
const char *qconv_last_error(void);
/* "invalid argument" and so on. */
const char *qconv_status_name(qconv_status status);
const char *qconv_version(void);

/* ---- quantizers ------------------------------------------------------------------------------------------------ */

typedef enum qconv_quantizer_kind QCONV_ENUM_TYPE {
    QCONV_IDENTITY = 0,     /* v */
    QCONV_SIGN = 1,         /* -1 if v < 0, else +1: -0.0 and NaN give +1 */
    QCONV_APPROXSIGN = 2,   /* forward as sign */
    QCONV_SWISHSIGN = 3,    /* forward as sign; beta shapes the gradient */
    QCONV_STEHEAVISIDE = 4, /* +1 if v > 0 else -1 */
    QCONV_INPUTDOREFA = 5,  /* round(clamp(v, 0, 1) * m) / m, m = 2^bits - 1, half to even */
    QCONV_WEIGHTDOREFA = 6, /* 2 * round((tanh(v) / (2 * max|tanh(V)|) + 0.5) * m) / m - 1, max over the whole tensor */
    QCONV_PROGRESSIVE_SIGN = 7, /* training: hardtanh(v / max(1 - T, 1e-7)), T = 1 - alpha^(-beta * scale); else sign */
    QCONV_QUANTIZER_KINDS = 8
} qconv_quantizer_kind;

typedef struct qconv_quantizer {
    qconv_quantizer_kind kind;
    int32_t bits;     /* the two DoReFa kinds: 1..8 */
    float alpha;      /* progressive_sign */
    float beta;       /* swishsign, progressive_sign */
    float scale;      /* progressive_sign: 0 at the start of training, 1 at its end */
    int32_t training; /* progressive_sign: nonzero selects the training form */
} qconv_quantizer;

/* bitorch's defaults for a kind (bits 1, alpha 4, beta 5 or 10, scale 0, evaluation). */
qconv_quantizer qconv_quantizer_default(qconv_quantizer_kind kind);
/* bitorch's name of a kind ("sign", "inputdorefa", ...), NULL outside the enum; and back (nonzero status if unknown).
 */
const char *qconv_quantizer_name(qconv_quantizer_kind kind);
qconv_status qconv_quantizer_from_name(const char *name, qconv_quantizer_kind *kind);

/* ---- layers ---------------------------------------------------------------------------------------------------- */

typedef enum qconv_layer_kind QCONV_ENUM_TYPE {
    QCONV_LAYER_CONV1D = 0,  /* y = conv(pad(x, 0), weight) + bias; bias may be NULL */
    QCONV_LAYER_NOACT = 1,   /* QConv1d_NoAct: y = conv(pad(x, pad_value), qw(weight)) */
    QCONV_LAYER_QCONV1D = 2, /* QConv1d: y = conv(pad(qi(x), pad_value), qw(weight)); padding is never quantized */
    QCONV_LAYER_KINDS = 3
} qconv_layer_kind;

/* What a layer is asked for; a bit set. Weights are packed once for each direction named. */
typedef enum qconv_direction QCONV_ENUM_TYPE {
    QCONV_FORWARD = 1,
    QCONV_GRAD_INPUT = 2,
    QCONV_GRAD_WEIGHT = 4, /* and grad_bias */
    QCONV_TRAINING = 7     /* all of them */
} qconv_direction;

typedef struct qconv_layer_config {
    qconv_layer_kind kind;
    int64_t in_channels;  /* >= 1, a multiple of groups */
    int64_t out_channels; /* >= 1, a multiple of groups */
    int64_t kernel_size;  /* >= 1 */
    int64_t stride;       /* >= 1 */
    int64_t pad_left;     /* >= 0 */
    int64_t pad_right;    /* >= 0 */
    int64_t dilation;     /* >= 1 */
    int64_t groups;       /* >= 1 */
    float pad_value;      /* any finite number; 0 is a true zero; conv1d needs 0 */
    /* Quantizers. The *_next quantizer and *_mix describe bitorch's scheduled quantizers at one moment of training:
     * q(v) = (1 - mix) * quantization(v) + mix * next(v), mix in [0, 1]. mix 0 (the default) means quantization alone.
     */
    qconv_quantizer input_quantization; /* QConv1d only */
    qconv_quantizer input_next;
    float input_mix;
    qconv_quantizer weight_quantization; /* QConv1d and QConv1d_NoAct */
    qconv_quantizer weight_next;
    float weight_mix;
    /* QConv1d: grad_input is 0 where |x| exceeds this (and where x is NaN). At least 0; NaN, the default, switches it
     * off. */
    float gradient_cancellation_threshold;
    uint32_t directions; /* of qconv_direction; QCONV_FORWARD by default */
    /* Name of the one kernel to use (see qconv_kernel_at), or NULL for the best: specialised before generic, then by
     * estimated cost among those this CPU supports. One for each direction. */
    const char *kernel;
    const char *grad_input_kernel;
    const char *grad_weight_kernel;
    /* Width that inputs are expected to have: kernels for it are chosen, and weights packed, when the layer is made.
     * For other widths that follows in the first call that needs it. 0, the default: not known, taken as long. On a
     * GPU, and where a kernel is named above, this choice serves all widths. */
    int64_t width;
} qconv_layer_config;

/* kernel_size 1, stride 1, no padding, dilation 1, groups 1, pad_value -1 (0 for conv1d), sign quantizers, no kernel.
 */
void qconv_layer_config_init(qconv_layer_config *config, qconv_layer_kind kind);
/* Checks every field as qconv_layer_create does, without weights. */
qconv_status qconv_layer_config_check(const qconv_layer_config *config);
/* Sets pad_left and pad_right as PyTorch's padding='same': dilation * (kernel_size - 1) in all, the smaller half left.
 */
qconv_status qconv_layer_config_pad_same(qconv_layer_config *config);

typedef struct qconv_layer qconv_layer;

/* Validates, quantizes and packs the weights once. weight and bias are copied; bias is for conv1d only (NULL: none). */
qconv_status qconv_layer_create(const qconv_layer_config *config, const float *weight, const float *bias,
                                qconv_layer **layer);
void qconv_layer_destroy(qconv_layer *layer); /* NULL is fine */

/* (width + pad_left + pad_right - dilation * (kernel_size - 1) - 1) / stride + 1; an error when the window does not
 * fit. */
qconv_status qconv_layer_width_out(const qconv_layer *layer, int64_t width, int64_t *width_out);

/* Bytes of scratch that forward needs for this input size at the present thread setting. */
qconv_status qconv_layer_workspace_size(const qconv_layer *layer, int64_t batch, int64_t width, size_t *bytes);

/* y = layer(x). With a workspace of at least workspace_size bytes (64-byte aligned) the call allocates nothing; with
 * NULL the library keeps one for each call that runs at the same time, for all layers together, grown when a call
 * needs more and freed with the last layer, so that repeated calls allocate nothing either. batch may be 0. x and y
 * must not overlap. The kernel is the best for this width. The first call whose width takes another kernel than the
 * calls before packs the weights for it, once until they are set anew, and allocates. That holds for the training calls
 * too. */
qconv_status qconv_layer_forward(const qconv_layer *layer, const float *x, int64_t batch, int64_t width, float *y,
                                 void *workspace, size_t workspace_bytes);

/* Takes new weights (and bias, for conv1d) into the same layer, as create did, without allocating: for the kernels that
 * calls took since the last weights. No other call may use the layer then. */
qconv_status qconv_layer_set_weights(qconv_layer *layer, const float *weight, const float *bias);

/* The kernel that a layer uses in one direction (exactly one bit; NULL if the layer was not created for it) for inputs of
 * its configuration's width, and the bytes that its packed weights take at present, all kernels together. */
struct qconv_kernel;
const struct qconv_kernel *qconv_layer_kernel(const qconv_layer *layer, qconv_direction direction);
size_t qconv_layer_packed_bytes(const qconv_layer *layer);

/* ---- training -------------------------------------------------------------------------------------------------- */

/* What backward needs from the forward pass, given the layer's directions. */
typedef enum qconv_saved QCONV_ENUM_TYPE {
    QCONV_SAVES_NOTHING = 0, /* neither x nor a state: grad_input of conv1d and QConv1d_NoAct */
    QCONV_SAVES_STATE = 1,   /* bits that forward_training writes: of an element, its level and whether the gradient
                              * passes. 2 bits by sign and steheaviside, B + 1 by inputdorefa of B bits (float: 32). x
                              * may be dropped */
    QCONV_SAVES_INPUT = 2    /* x itself: keep it until backward */
} qconv_saved;
qconv_saved qconv_layer_saved(const qconv_layer *layer);
/* Bits of the state for each element, its level's and one more; 0 unless the layer saves a state. A row of x takes as
 * many words of 32 bits for every 32 positions, begun ones counted. */
int qconv_layer_state_planes(const qconv_layer *layer);
/* Bytes of the state for this input size; 0 unless the layer saves a state. */
qconv_status qconv_layer_state_size(const qconv_layer *layer, int64_t batch, int64_t width, size_t *bytes);
/* Bytes of scratch that forward_training and backward need for this input size at the present thread setting. */
qconv_status qconv_layer_training_workspace_size(const qconv_layer *layer, int64_t batch, int64_t width, size_t *bytes);

/* Forward, and the state where the layer saves one: state_size bytes, 4-byte aligned; else state is ignored and may be
 * NULL. y is what qconv_layer_forward gives. */
qconv_status qconv_layer_forward_training(const qconv_layer *layer, const float *x, int64_t batch, int64_t width,
                                          float *y, void *state, size_t state_bytes, void *workspace,
                                          size_t workspace_bytes);

/* Straight-through gradients from grad_output [batch, out_channels, width_out]: grad_input, shaped as x; grad_weight,
 * shaped as weight; grad_bias [out_channels], conv1d only. A NULL output is not computed. Outputs are overwritten, not
 * added to. Pass what the layer saves: x where it saves the input, state where it saves a state; the other is ignored
 * and may be NULL. An output of no elements in the batch (batch 0) is filled with zeros. The same input gives the same
 * bits at any number of threads. Weights must not have been set anew since the forward pass. */
qconv_status qconv_layer_backward(const qconv_layer *layer, const float *x, const void *state, size_t state_bytes,
                                  const float *grad_output, int64_t batch, int64_t width, float *grad_input,
                                  float *grad_weight, float *grad_bias, void *workspace, size_t workspace_bytes);

/* ---- layers on a GPU ------------------------------------------------------------------------------------------ */

/* A CUDA or OpenCL context that layers live in (docs/gpu.md). Needs kernels of target "cuda" or "opencl", and the
 * Halide runtime with GPU support in place of the plain one. Where there is no driver, opening fails with
 * QCONV_NO_DEVICE and a reason; nothing else changes. Every function may be called from several threads at once. */
typedef struct qconv_device qconv_device;

/* context: a CUcontext, or NULL for the primary context of GPU `ordinal` (what PyTorch and the CUDA runtime use). Needs
 * compute capability 8.0 or higher. */
qconv_status qconv_device_open_cuda(int ordinal, void *context, qconv_device **device);
/* context: a cl_context; queue: a cl_command_queue of it. Both must outlive the device. */
qconv_status qconv_device_open_opencl(void *context, void *queue, qconv_device **device);
/* Layers keep what they need of it. NULL is fine. */
void qconv_device_close(qconv_device *device);

/* CUDA: where the kernels of a call take their scratch (packed inputs) from, in place of memory that the library keeps
 * for each stream: a program's own pool of device memory. allocate(bytes, stream, context) returns device memory or
 * NULL, aligned to 256 bytes; release(memory, stream, context) follows within the same call, once the kernels that use
 * it are on the stream, but before they have run. Both NULL restore the default. Call before layers of the device run.
 */
typedef void *(*qconv_device_allocate_fn)(size_t bytes, void *stream, void *context);
typedef void (*qconv_device_release_fn)(void *memory, void *stream, void *context);
qconv_status qconv_device_set_allocator(qconv_device *device, qconv_device_allocate_fn allocate,
                                        qconv_device_release_fn release, void *context);

/* As qconv_layer_create, on a device: quantizes and packs on the CPU, then uploads, once. weight and bias are host
 * memory. Its kernels come from those registered for the device's target. qconv_layer_set_weights works as before: it
 * waits for the work on the device that may still read the old weights (OpenCL: on the device's own queue; that on
 * others must have finished), and for the upload; qconv_layer_destroy waits too. Not on a device: weightdorefa as input
 * quantizer. */
qconv_status qconv_layer_create_on(qconv_device *device, const qconv_layer_config *config, const float *weight,
                                   const float *bias, qconv_layer **layer);

/* As the functions of the same name without _on, for a layer on a device. Tensors and states are in device memory
 * (CUDA: addresses; OpenCL: cl_mem), and are neither copied nor waited for: the work is put on `stream` (CUDA: a
 * CUstream, NULL for the default stream; OpenCL: a cl_command_queue, NULL for the device's) and the call returns. A
 * host address given to CUDA is an error. At most 2^31 - 1 elements a tensor; backward needs a batch of at least 1. */
qconv_status qconv_layer_forward_on(const qconv_layer *layer, const void *x, int64_t batch, int64_t width, void *y,
                                    void *stream);
qconv_status qconv_layer_forward_training_on(const qconv_layer *layer, const void *x, int64_t batch, int64_t width,
                                             void *y, void *state, size_t state_bytes, void *stream);
qconv_status qconv_layer_backward_on(const qconv_layer *layer, const void *x, const void *state, size_t state_bytes,
                                     const void *grad_output, int64_t batch, int64_t width, void *grad_input,
                                     void *grad_weight, void *grad_bias, void *stream);

/* ---- weights that somebody else owns --------------------------------------------------------------------------- */

/* For bindings to frameworks, where weights lie in memory that optimizers, other threads and other processes write to.
 * One cache for the process keeps the packed layers, and looks at the contents: */
typedef enum qconv_weight_check QCONV_ENUM_TYPE {
    /* Before a layer of QCONV_FORWARD alone is used, some neighbouring elements of every output channel, of every input
     * channel and of every tap are compared by fingerprints, and a part of the rest that moves on from call to call:
     * weights up to 1 MiB have been read whole after 8 calls, up to 16 KiB after one, larger ones after one for each
     * 128 KiB. Layers with gradients: as QCONV_CHECK_EXACT. */
    QCONV_CHECK_SAMPLED = 0,
    QCONV_CHECK_EXACT = 1,   /* every bit before every use */
    QCONV_CHECK_NOTHING = 2, /* of weights whose version is the same, for layers of QCONV_FORWARD alone; a bias is
                              * taken as it is when the layer is packed. Else as QCONV_CHECK_EXACT */
    QCONV_WEIGHT_CHECKS = 3
} qconv_weight_check;
/* For all calls from now on. QCONV_CHECK_SAMPLED by default. */
qconv_status qconv_set_weight_check(qconv_weight_check check);
qconv_weight_check qconv_get_weight_check(void);

typedef struct qconv_acquired {
    qconv_layer *layer; /* NULL: its weights must be packed anew, and weight was NULL */
    int first;          /* nonzero: nothing was known of the address; call qconv_weights_forget when its memory goes */
} qconv_acquired;

/* A layer of these weights for a call with an input [batch, in_channels, width]. Nothing changes it until
 * qconv_weights_release, one for each acquire. config must name no kernels. device: NULL for the CPU. address: what the
 * weights are known by; with that of the weights themselves, a view at the same place shares their layers. weight and
 * bias as qconv_layer_create takes them, in host memory; weight may be NULL where it is costly to have them there: then
 * the version alone decides. version: any number; another one than last time has everything compared. backward:
 * nonzero if the call is qconv_layer_backward, which needs no bias: bias is not compared and may be NULL. */
qconv_status qconv_weights_acquire(const qconv_layer_config *config, qconv_device *device, const void *address,
                                   const float *weight, const float *bias, uint64_t version, int64_t batch,
                                   int64_t width, int backward, qconv_acquired *acquired);
void qconv_weights_release(const qconv_layer *layer);
/* Drops the layers of an address; those in use go when they are released. */
void qconv_weights_forget(const void *address);
/* Addresses with layers. */
size_t qconv_weights_count(void);

/* ---- networks -------------------------------------------------------------------------------------------------- */

/* Layers one after another, each followed by z = scale * y + shift, channel by channel: a batch norm, folded. Where the
 * next layer is a QConv1d that takes signs (any quantizer of one bit) and multiplies by binary weights, no z is stored:
 * the kernel compares its integer sums with a threshold of each channel and packs the bits, and the next kernel reads
 * those. Its bits are those of the exact scale * y + shift, of which PyTorch rounds each step; all else is as if the
 * layers ran one by one. */
typedef struct qconv_network_layer {
    qconv_layer_config config; /* in_channels must be the out_channels of the layer before; directions is not read */
    const float *weight;       /* as qconv_layer_create takes them; copied */
    const float *bias;
    const float *scale; /* [out_channels]; NULL for 1. Finite numbers of any sign */
    const float *shift; /* [out_channels]; NULL for 0 */
} qconv_network_layer;

typedef struct qconv_network qconv_network;

/* count >= 1 layers. The network may then run on several threads at once, as a layer may. */
qconv_status qconv_network_create(const qconv_network_layer *layers, size_t count, qconv_network **network);
void qconv_network_destroy(qconv_network *network); /* NULL is fine */

/* Nonzero if packed signs enter this layer, 0 if floats do (or there is no such layer). */
int qconv_network_packed(const qconv_network *network, size_t layer);

/* As qconv_layer_width_out, qconv_layer_workspace_size and qconv_layer_forward, for all layers together: x [batch,
 * in_channels of the first, width], y [batch, out_channels of the last, width_out] with its scale and shift. */
qconv_status qconv_network_width_out(const qconv_network *network, int64_t width, int64_t *width_out);
qconv_status qconv_network_workspace_size(const qconv_network *network, int64_t batch, int64_t width, size_t *bytes);
qconv_status qconv_network_forward(const qconv_network *network, const float *x, int64_t batch, int64_t width, float *y,
                                   void *workspace, size_t workspace_bytes);

/* scale and shift [channels] of PyTorch's BatchNorm1d in evaluation, from its running_mean, running_var, weight and
 * bias (NULL: 1 and 0) and eps: weight / sqrt(var + eps), and bias - mean * that. */
qconv_status qconv_fold_batch_norm(int64_t channels, const float *mean, const float *variance, const float *weight,
                                   const float *bias, double epsilon, float *scale, float *shift);

/* ---- registry -------------------------------------------------------------------------------------------------- */

typedef enum qconv_path QCONV_ENUM_TYPE {
    QCONV_PATH_B1B1 = 0,   /* xor and popcount on bit-planes: sign and low-bit DoReFa on both sides */
    QCONV_PATH_INT8 = 1,   /* 8-bit dot products: DoReFa and sign in any mix */
    QCONV_PATH_F32B1 = 2,  /* real inputs, binary weights: table lookup */
    QCONV_PATH_F32F32 = 3, /* everything else, and conv1d */
    QCONV_PATHS = 4
} qconv_path;

typedef enum qconv_op QCONV_ENUM_TYPE {
    QCONV_OP_FORWARD = 0,
    QCONV_OP_GRAD_INPUT = 1,
    QCONV_OP_GRAD_WEIGHT = 2,
    QCONV_OP_SAVE_STATE = 3, /* levels and masks of x, for backward */
    /* Between the layers of a network (qconv_network): */
    QCONV_OP_TO_BITS = 4,       /* packed signs of a tensor, after a threshold on each channel */
    QCONV_OP_BITS_TO_BITS = 5,  /* forward from packed signs to packed signs */
    QCONV_OP_BITS_TO_FLOAT = 6, /* forward from packed signs */
    QCONV_OP_GRAD_BIAS = 7,     /* of conv1d, on devices; on the CPU the runtime sums it */
    QCONV_OPS = 8
} qconv_op;

/* One compiled kernel. The layout fields say how weights must be packed for it (runtime/include/qconv/layout.h). */
typedef struct qconv_kernel {
    const char *name;   /* unique within a target: see docs/names.md */
    const char *target; /* "avx2", "arm64", "cuda", ...: docs/names.md */
    qconv_op op;
    qconv_path path;
    int (*call)(void **arguments); /* Halide's argv entry */
    /* Layout. */
    int32_t word_bits;      /* bits of one packed word: b1b1 8, 16 or 32; int8 16 or 32; 0 on the f32 paths */
    int32_t element_bits;   /* bits of one element in a word: b1b1 1; int8 8 or 16; 0 on the f32 paths */
    int32_t word_channels;  /* channels joined in one word; the rest of the word holds further taps */
    int32_t input_planes;   /* b1b1: bit-planes of the input, 1 for sign; else 0 */
    int32_t weight_planes;  /* b1b1: bit-planes of the weight; else 0 */
    int32_t table_channels; /* f32b1: channels (grad_weight: positions) that index one table; else 0 */
    int32_t tables;         /* f32b1: tables in use at once; else 0 */
    int32_t out_block;      /* channels of the result (grad_weight: output channels) computed together; weights are
                             * padded to a multiple of it */
    int32_t width_block;    /* positions of the result computed together; grad_weight: summed together */
    int32_t unit_stride;    /* nonzero: stride must be 1 */
    int32_t window_sum;     /* int8: nonzero: also sums each window, for weights with an offset */
    int32_t channel_block;  /* grad_weight f32f32: input channels and taps summed together; else 0 */
    int32_t tap_block;
    int32_t vector_words; /* b1b1: above 1, so many words of a window lie together, output channel by output channel */
    int32_t level_offset; /* int8: what stored input levels are less by, 0 or 128 */
    int32_t tile_width;   /* positions of one task at most, where tuned; 0: the runtime chooses */
    int32_t group_block;  /* f32f32: above 1, so many groups of one channel and one output side by side */
    int32_t
        tile_input; /* on devices, forward: nonzero: the input of width_block outputs in memory that threads share */
    /* Shape this kernel was specialised for; all 0 for a generic kernel. */
    int64_t in_channels, out_channels, kernel_size, stride, dilation, groups;
} qconv_kernel;

/* Adds kernels; rows must stay valid for the life of the process. Registering the same rows again is harmless. */
qconv_status qconv_register_kernels(const qconv_kernel *rows, size_t count);
/* Registers the generic kernels of every target this library was built with (link qconv_kernels). */
qconv_status qconv_register_generic_kernels(void);
/* Registers those of the GPU targets it was built with (link qconv_gpu_kernels and the runtime with GPU support). */
qconv_status qconv_register_gpu_kernels(void);
size_t qconv_kernel_count(void);
const qconv_kernel *qconv_kernel_at(size_t index); /* NULL past the end */
const char *qconv_path_name(qconv_path path);      /* "b1b1", ... */
const char *qconv_op_name(qconv_op op);            /* "forward", "grad_input", ..., "bits_to_float" */

/* ---- process settings ------------------------------------------------------------------------------------------ */

/* Nonzero if this CPU and operating system run kernels of that target; *missing (may be NULL) names the first feature
 * that is absent, "" if none. Of a GPU target it says why no GPU can be used. An unknown target name gives 0. */
int qconv_cpu_supports(const char *target, const char **missing);

/* Threads that one call may use. Default: the size of the calling process's affinity mask. 1..1024. */
qconv_status qconv_set_num_threads(int threads);
int qconv_get_num_threads(void);

/* Replaces the allocator of layers, packed weights and owned workspaces (not of the thread pool). allocate(bytes,
 * context) returns 64-byte aligned memory or NULL. Both NULL restore the default. Call while no layer exists. */
typedef void *(*qconv_allocate_fn)(size_t bytes, void *context);
typedef void (*qconv_release_fn)(void *memory, void *context);
qconv_status qconv_set_allocator(qconv_allocate_fn allocate, qconv_release_fn release, void *context);

#ifdef __cplusplus
}
#endif
#endif
