// The C ABI: each function is one call behind the exception barrier.
#include <string>

#include "config.h"
#include "cpu_features.h"
#include "device.h"
#include "errors.h"
#include "layer.h"
#include "memory.h"
#include "network.h"
#include "qconv/qconv.h"
#include "registry.h"
#include "threads.h"
#include "weight_cache.h"

using qconv::guarded;
using qconv::require_pointer;
using qconv::WeightCache;

const char *qconv_last_error(void) {
    return qconv::last_error();
}

const char *qconv_status_name(qconv_status status) {
    return qconv::status_name(status);
}

const char *qconv_version(void) {
    return QCONV_VERSION;
}

qconv_quantizer qconv_quantizer_default(qconv_quantizer_kind kind) {
    return qconv::default_quantizer(kind);
}

const char *qconv_quantizer_name(qconv_quantizer_kind kind) {
    return qconv::quantizer_name(kind);
}

qconv_status qconv_quantizer_from_name(const char *name, qconv_quantizer_kind *kind) {
    return guarded([&] {
        require_pointer(name, "name");
        require_pointer(kind, "kind");
        *kind = qconv::quantizer_from_name(name);
    });
}

void qconv_layer_config_init(qconv_layer_config *config, qconv_layer_kind kind) {
    if (config != nullptr) *config = qconv::default_config(kind);
}

qconv_status qconv_layer_config_check(const qconv_layer_config *config) {
    return guarded([&] {
        require_pointer(config, "config");
        qconv::check_config(*config);
    });
}

qconv_status qconv_layer_config_pad_same(qconv_layer_config *config) {
    return guarded([&] {
        require_pointer(config, "config");
        qconv::pad_same(*config);
    });
}

qconv_status qconv_layer_create(const qconv_layer_config *config, const float *weight, const float *bias,
                                qconv_layer **layer) {
    return guarded([&] {
        require_pointer(config, "config");
        require_pointer(layer, "layer");
        *layer = qconv::create_layer(*config, weight, bias).release();
    });
}

void qconv_layer_destroy(qconv_layer *layer) {
    const qconv::LayerPointer owned(layer);
}

qconv_status qconv_layer_width_out(const qconv_layer *layer, int64_t width, int64_t *width_out) {
    return guarded([&] {
        require_pointer(layer, "layer");
        require_pointer(width_out, "width_out");
        *width_out = layer->width_out(width);
    });
}

qconv_status qconv_layer_workspace_size(const qconv_layer *layer, int64_t batch, int64_t width, size_t *bytes) {
    return guarded([&] {
        require_pointer(layer, "layer");
        require_pointer(bytes, "bytes");
        *bytes = layer->workspace_size(batch, width, qconv::num_threads());
    });
}

qconv_status qconv_layer_forward(const qconv_layer *layer, const float *x, int64_t batch, int64_t width, float *y,
                                 void *workspace, size_t workspace_bytes) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->forward(x, batch, width, y, {workspace, workspace_bytes}, qconv::num_threads());
    });
}

qconv_status qconv_layer_set_weights(qconv_layer *layer, const float *weight, const float *bias) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->set_weights(weight, bias);
    });
}

qconv_saved qconv_layer_saved(const qconv_layer *layer) {
    return layer == nullptr ? QCONV_SAVES_NOTHING : layer->saved();
}

int qconv_layer_state_planes(const qconv_layer *layer) {
    return layer == nullptr ? 0 : layer->state_planes();
}

qconv_status qconv_layer_state_size(const qconv_layer *layer, int64_t batch, int64_t width, size_t *bytes) {
    return guarded([&] {
        require_pointer(layer, "layer");
        require_pointer(bytes, "bytes");
        *bytes = layer->state_size(batch, width);
    });
}

qconv_status qconv_layer_training_workspace_size(const qconv_layer *layer, int64_t batch, int64_t width,
                                                 size_t *bytes) {
    return guarded([&] {
        require_pointer(layer, "layer");
        require_pointer(bytes, "bytes");
        *bytes = layer->training_workspace_size(batch, width);
    });
}

qconv_status qconv_layer_forward_training(const qconv_layer *layer, const float *x, int64_t batch, int64_t width,
                                          float *y, void *state, size_t state_bytes, void *workspace,
                                          size_t workspace_bytes) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->forward_training(x, batch, width, y, state, state_bytes, {workspace, workspace_bytes});
    });
}

qconv_status qconv_layer_backward(const qconv_layer *layer, const float *x, const void *state, size_t state_bytes,
                                  const float *grad_output, int64_t batch, int64_t width, float *grad_input,
                                  float *grad_weight, float *grad_bias, void *workspace, size_t workspace_bytes) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->backward(x, {state, state_bytes}, grad_output, batch, width, {grad_input, grad_weight, grad_bias},
                        {workspace, workspace_bytes});
    });
}

qconv_status qconv_device_open_cuda(int ordinal, void *context, qconv_device **device) {
    return guarded([&] {
        require_pointer(device, "device");
        *device = new qconv_device{qconv::Device::open_cuda(ordinal, context)};
    });
}

qconv_status qconv_device_open_opencl(void *context, void *queue, qconv_device **device) {
    return guarded([&] {
        require_pointer(device, "device");
        *device = new qconv_device{qconv::Device::open_opencl(context, queue)};
    });
}

void qconv_device_close(qconv_device *device) {
    delete device;
}

qconv_status qconv_device_set_allocator(qconv_device *device, qconv_device_allocate_fn allocate,
                                        qconv_device_release_fn release, void *context) {
    return guarded([&] {
        require_pointer(device, "device");
        device->device->set_allocator({allocate, release, context});
    });
}

qconv_status qconv_layer_create_on(qconv_device *device, const qconv_layer_config *config, const float *weight,
                                   const float *bias, qconv_layer **layer) {
    return guarded([&] {
        require_pointer(device, "device");
        require_pointer(config, "config");
        require_pointer(layer, "layer");
        *layer = qconv::create_layer(*config, weight, bias, device->device).release();
    });
}

qconv_status qconv_layer_forward_on(const qconv_layer *layer, const void *x, int64_t batch, int64_t width, void *y,
                                    void *stream) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->forward_on(x, batch, width, y, stream);
    });
}

qconv_status qconv_layer_forward_training_on(const qconv_layer *layer, const void *x, int64_t batch, int64_t width,
                                             void *y, void *state, size_t state_bytes, void *stream) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->forward_training_on(x, batch, width, y, state, state_bytes, stream);
    });
}

qconv_status qconv_layer_backward_on(const qconv_layer *layer, const void *x, const void *state, size_t state_bytes,
                                     const void *grad_output, int64_t batch, int64_t width, void *grad_input,
                                     void *grad_weight, void *grad_bias, void *stream) {
    return guarded([&] {
        require_pointer(layer, "layer");
        layer->backward_on(
            x, {state, state_bytes}, grad_output, batch, width,
            {static_cast<float *>(grad_input), static_cast<float *>(grad_weight), static_cast<float *>(grad_bias)},
            stream);
    });
}

const qconv_kernel *qconv_layer_kernel(const qconv_layer *layer, qconv_direction direction) {
    return layer == nullptr ? nullptr : layer->kernel(direction);
}

size_t qconv_layer_packed_bytes(const qconv_layer *layer) {
    return layer == nullptr ? 0 : layer->packed_bytes();
}

qconv_status qconv_set_weight_check(qconv_weight_check check) {
    return guarded([&] {
        if (check < QCONV_CHECK_SAMPLED || check >= QCONV_WEIGHT_CHECKS) {
            qconv::throw_invalid("check", std::to_string(check), "it must be one of qconv_weight_check");
        }
        WeightCache::instance().set_check(check);
    });
}

qconv_weight_check qconv_get_weight_check(void) {
    return WeightCache::instance().check();
}

qconv_status qconv_weights_acquire(const qconv_layer_config *config, qconv_device *device, const void *address,
                                   const float *weight, const float *bias, uint64_t version, int64_t batch,
                                   int64_t width, int backward, qconv_acquired *acquired) {
    return guarded([&] {
        require_pointer(config, "config");
        require_pointer(address, "address");
        require_pointer(acquired, "acquired");
        const qconv::CurrentWeights weights{.config = *config,
                                            .device = device == nullptr ? nullptr : device->device,
                                            .address = address,
                                            .weight = weight,
                                            .bias = bias,
                                            .version = version,
                                            .batch = batch,
                                            .width = width,
                                            .backward = backward != 0};
        bool first = false;
        acquired->layer = WeightCache::instance().acquire(weights, first);
        acquired->first = first ? 1 : 0;
    });
}

void qconv_weights_release(const qconv_layer *layer) {
    WeightCache::instance().release(layer);
}

void qconv_weights_forget(const void *address) {
    WeightCache::instance().forget(address);
}

size_t qconv_weights_count(void) {
    return WeightCache::instance().count();
}

qconv_status qconv_network_create(const qconv_network_layer *layers, size_t count, qconv_network **network) {
    return guarded([&] {
        require_pointer(layers, "layers");
        require_pointer(network, "network");
        *network = new qconv_network({layers, count});
    });
}

void qconv_network_destroy(qconv_network *network) {
    delete network;
}

int qconv_network_packed(const qconv_network *network, size_t layer) {
    return network != nullptr && network->packed(layer) ? 1 : 0;
}

qconv_status qconv_network_width_out(const qconv_network *network, int64_t width, int64_t *width_out) {
    return guarded([&] {
        require_pointer(network, "network");
        require_pointer(width_out, "width_out");
        *width_out = network->width_out(width);
    });
}

qconv_status qconv_network_workspace_size(const qconv_network *network, int64_t batch, int64_t width, size_t *bytes) {
    return guarded([&] {
        require_pointer(network, "network");
        require_pointer(bytes, "bytes");
        *bytes = network->workspace_size(batch, width);
    });
}

qconv_status qconv_network_forward(const qconv_network *network, const float *x, int64_t batch, int64_t width, float *y,
                                   void *workspace, size_t workspace_bytes) {
    return guarded([&] {
        require_pointer(network, "network");
        network->forward(x, batch, width, y, {workspace, workspace_bytes});
    });
}

qconv_status qconv_fold_batch_norm(int64_t channels, const float *mean, const float *variance, const float *weight,
                                   const float *bias, double epsilon, float *scale, float *shift) {
    return guarded([&] { qconv::fold_batch_norm(channels, {mean, variance, weight, bias, epsilon}, scale, shift); });
}

qconv_status qconv_register_kernels(const qconv_kernel *rows, size_t count) {
    return guarded([&] {
        if (count > 0) require_pointer(rows, "rows");
        qconv::register_kernels({rows, count});
    });
}

size_t qconv_kernel_count(void) {
    return qconv::kernel_count();
}

const qconv_kernel *qconv_kernel_at(size_t index) {
    return qconv::kernel_at(index);
}

const char *qconv_path_name(qconv_path path) {
    return qconv::path_name(path);
}

const char *qconv_op_name(qconv_op op) {
    return qconv::op_name(op);
}

int qconv_cpu_supports(const char *target, const char **missing) {
    int supported = 0;
    const char *first = "";
    const qconv_status status = guarded([&] {
        const qconv::KernelTarget *known = target == nullptr ? nullptr : qconv::find_target(target);
        if (known == nullptr) return;
        first = qconv::missing_feature(*known, qconv::cpu_features());
        if (*first == '\0') first = qconv::device_unavailable(known->device);
        supported = *first == '\0' ? 1 : 0;
    });
    if (missing != nullptr) *missing = status == QCONV_OK ? first : qconv_status_name(status);
    return supported;
}

qconv_status qconv_set_num_threads(int threads) {
    return guarded([&] { qconv::set_num_threads(threads); });
}

int qconv_get_num_threads(void) {
    return qconv::num_threads();
}

qconv_status qconv_set_allocator(qconv_allocate_fn allocate, qconv_release_fn release, void *context) {
    return guarded([&] { qconv::set_allocator(allocate, release, context); });
}
