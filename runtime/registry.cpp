#include "registry.h"

#include <cmath>
#include <cstring>
#include <mutex>
#include <new>
#include <shared_mutex>
#include <string>
#include <string_view>
#include <tuple>
#include <vector>

#include "arithmetic.h"
#include "errors.h"
#include "select.h"

namespace qconv {
namespace {

struct Registry {
    std::shared_mutex mutex;
    std::vector<const qconv_kernel *> rows;
};

// Never destroyed: kernels may be registered and layers created while other static objects come and go.
Registry &registry() {
    static Registry *const instance = new Registry;
    return *instance;
}

bool same_identity(const qconv_kernel &a, const qconv_kernel &b) {
    return std::strcmp(a.name, b.name) == 0 && std::strcmp(a.target, b.target) == 0;
}

bool same_content(const qconv_kernel &a, const qconv_kernel &b) {
    const auto fields = [](const qconv_kernel &k) {
        return std::tuple_cat(
            std::make_tuple(k.op, k.path, k.call, k.word_bits, k.element_bits, k.word_channels),
            std::make_tuple(k.input_planes, k.weight_planes, k.table_channels, k.tables),
            std::make_tuple(k.out_block, k.width_block, k.unit_stride, k.window_sum, k.channel_block, k.tap_block,
                            k.vector_words, k.level_offset, k.tile_width, k.group_block, k.tile_input),
            std::make_tuple(k.in_channels, k.out_channels, k.kernel_size, k.stride, k.dilation, k.groups));
    };
    return fields(a) == fields(b);
}

std::string full_name(const qconv_kernel &kernel) {
    return std::string(kernel.name) + "@" + kernel.target;
}

void check_row(const qconv_kernel &row) {
    if (row.name == nullptr || row.target == nullptr || row.call == nullptr || *row.name == '\0') {
        throw Error(QCONV_INVALID_ARGUMENT, "a kernel row lacks its name, target or entry point");
    }
    if (std::strchr(row.name, '@') != nullptr) throw_invalid("kernel name", row.name, "it must not contain '@'");
    const KernelTarget *target = find_target(row.target);
    if (target == nullptr || std::strcmp(target->name, row.target) != 0) {
        throw_invalid("target of kernel " + std::string(row.name), row.target, "no such target is known");
    }
    if (const char *defect = layout_defect(row)) {
        throw Error(QCONV_INVALID_ARGUMENT, "kernel " + full_name(row) + ": " + defect);
    }
}

// What the caller forces: "NAME", "NAME@TARGET", "@TARGET"; empty parts force nothing.
struct Forced {
    std::string_view name, target;

    explicit Forced(const char *text) {
        if (text == nullptr) return;
        const std::string_view whole(text);
        const std::size_t at = whole.find('@');
        name = whole.substr(0, at);
        if (at != std::string_view::npos) target = whole.substr(at + 1);
    }

    bool any() const { return !name.empty() || !target.empty(); }
    bool allows(const qconv_kernel &kernel) const {
        return (name.empty() || name == kernel.name) && (target.empty() || target == kernel.target);
    }
};

// Lower is better. Ties cannot matter: the first one stays.
struct Rank {
    bool generic;
    int target;
    double cost;
    bool operator<(const Rank &other) const {
        return std::tie(generic, target, cost) < std::tie(other.generic, other.target, other.cost);
    }
};

// The field that forces a kernel of this op; kernels that save states or sum a bias's gradient follow another's target.
struct ForcedField {
    const char *name, *value;
};

ForcedField forced_field(const qconv_layer_config &config, qconv_op op) {
    switch (op) {
        case QCONV_OP_GRAD_INPUT:
            return {"grad_input_kernel", config.grad_input_kernel};
        case QCONV_OP_GRAD_WEIGHT:
            return {"grad_weight_kernel", config.grad_weight_kernel};
        default:
            return {"kernel", config.kernel};
    }
}

// Why nothing was chosen, from what the search saw.
struct Search {
    std::size_t registered = 0;
    std::size_t allowed = 0;              // of this op, by what is forced
    const qconv_kernel *unfit = nullptr;  // an allowed kernel that cannot serve the layer
    const qconv_kernel *barred = nullptr; // one that could, but for the CPU
    const qconv_kernel *other = nullptr;  // an allowed kernel of another kind of device
};

const qconv_kernel *find(const qconv_layer_config &config, qconv_op op, CpuFeatures features, DeviceKind device,
                         Search &search) {
    Registry &shared = registry();
    const std::shared_lock lock(shared.mutex);
    const Forced forced(forced_field(config, op).value);
    search.registered = shared.rows.size();
    const qconv_kernel *best = nullptr;
    Rank best_rank{};
    for (const qconv_kernel *kernel : shared.rows) {
        if (kernel->op != op || !forced.allows(*kernel)) continue;
        ++search.allowed;
        if (find_target(kernel->target)->device != device) {
            search.other = kernel;
            continue;
        }
        const double cost = mismatch(*kernel, config) == nullptr ? estimate_cost(*kernel, config) : INFINITY;
        if (!std::isfinite(cost)) {
            search.unfit = kernel;
            continue;
        }
        if (!features.contains(find_target(kernel->target)->needs)) {
            search.barred = kernel;
            continue;
        }
        const Rank rank{!specialised(*kernel), target_rank(kernel->target), cost};
        if (best != nullptr && !(rank < best_rank)) continue;
        best = kernel;
        best_rank = rank;
    }
    return best;
}

const char *device_name(DeviceKind kind) {
    return kind == DeviceKind::Cuda ? "CUDA" : kind == DeviceKind::OpenCl ? "OpenCL" : "this CPU";
}

[[noreturn]] void throw_no_kernel(const qconv_layer_config &config, qconv_op op, const Forced &forced,
                                  const Search &search, CpuFeatures features, DeviceKind device) {
    if (search.registered == 0) {
        throw Error(
            QCONV_NO_KERNEL,
            "no kernel is registered: link qconv_kernels and call qconv_register_generic_kernels(), or link your "
            "compiled layers and call their NAME_register()");
    }
    const std::string count = std::to_string(search.registered);
    const std::string kernels = std::string(op_name(op)) + " kernel";
    const ForcedField field = forced_field(config, op);
    if (search.allowed == 0) {
        const std::string what = forced.any() ? std::string(field.name) + " is \"" + field.value + "\"; " : "";
        throw Error(QCONV_NO_KERNEL, what + "none of the " + count + " registered kernels is a " + kernels +
                                         (forced.any() ? " of that name and target" : ""));
    }
    if (search.unfit == nullptr && search.barred == nullptr) {
        throw Error(QCONV_NO_KERNEL, "none of the " + count + " registered kernels is a " + kernels + " for " +
                                         device_name(device) + "; " + full_name(*search.other) + " is for " +
                                         device_name(find_target(search.other->target)->device) +
                                         (device == DeviceKind::Cpu ? " (qconv_layer_create_on)" : ""));
    }
    if (search.barred != nullptr) {
        const std::string missing = missing_feature(*find_target(search.barred->target), features);
        throw Error(forced.any() ? QCONV_UNSUPPORTED_CPU : QCONV_NO_KERNEL,
                    "kernel " + full_name(*search.barred) + " serves this layer, but this CPU lacks " + missing);
    }
    const char *reason = mismatch(*search.unfit, config);
    const std::string why = full_name(*search.unfit) + ": " + (reason != nullptr ? reason : "it does not fit");
    if (forced.any()) {
        throw Error(QCONV_NO_KERNEL,
                    std::string(field.name) + " \"" + field.value + "\" cannot serve this layer; " + why);
    }
    throw Error(QCONV_NO_KERNEL, "none of the " + count + " registered kernels serves this layer as its " + kernels +
                                     "; the last one, " + why);
}

} // namespace

const char *layout_defect(const qconv_kernel &k) {
    if (op_name(k.op) == nullptr) return "op is unknown";
    if (path_name(k.path) == nullptr) return "path is unknown";
    if (k.op == QCONV_OP_SAVE_STATE || k.op == QCONV_OP_TO_BITS || k.op == QCONV_OP_GRAD_BIAS) return nullptr;
    constexpr std::int32_t most = 1 << 16;
    if (k.out_block < 1 || k.width_block < 1 || k.out_block > most || k.width_block > most) {
        return "out_block and width_block must be 1..65536";
    }
    for (const std::int32_t field :
         {k.word_bits, k.element_bits, k.word_channels, k.input_planes, k.weight_planes, k.table_channels, k.tables,
          k.channel_block, k.tap_block, k.vector_words, k.group_block}) {
        if (field < 0 || field > most) return "the layout's fields must be 0..65536";
    }
    if (k.tile_width < 0) return "tile_width must be 0 or positive";
    const bool side_by_side = k.op == QCONV_OP_FORWARD || (k.op == QCONV_OP_GRAD_INPUT && k.unit_stride != 0);
    if (k.group_block > 1 && (!side_by_side || k.path != QCONV_PATH_F32F32 || k.out_block != 1)) {
        return "group_block is for forward, and grad_input of unit stride, on path f32f32 with an out_block of 1";
    }
    if (k.group_block > 1 && k.width_block % k.group_block != 0) return "width_block must be a multiple of group_block";
    const bool words = k.path == QCONV_PATH_B1B1 || k.path == QCONV_PATH_INT8;
    if (k.tile_input != 0 && (k.op != QCONV_OP_FORWARD || !words)) {
        return "tile_input is for forward on paths b1b1 and int8";
    }
    const bool from_bits = k.op == QCONV_OP_BITS_TO_BITS || k.op == QCONV_OP_BITS_TO_FLOAT;
    if (from_bits && (k.path != QCONV_PATH_B1B1 || k.input_planes != 1)) return "packed signs are one plane of b1b1";
    if (k.op == QCONV_OP_BITS_TO_BITS && 32 % k.out_block != 0) return "out_block must divide the 32 bits of a word";
    if (words && k.op != QCONV_OP_FORWARD && !from_bits) return "gradients are on the float paths";
    if (!words && (k.word_bits != 0 || k.element_bits != 0)) return "a float path has no words";
    if (words && (k.word_channels < 1 || k.element_bits < 1 || k.word_bits % (k.element_bits * k.word_channels) != 0)) {
        return "word_bits must be a multiple of element_bits * word_channels";
    }
    switch (k.path) {
        case QCONV_PATH_B1B1:
            if (k.element_bits != 1 || (k.word_bits != 8 && k.word_bits != 16 && k.word_bits != 32)) {
                return "b1b1 words have 8, 16 or 32 bits";
            }
            if (k.input_planes < 1 || k.input_planes > 8 || k.weight_planes < 1 || k.weight_planes > 8) {
                return "b1b1 needs 1..8 input_planes and weight_planes";
            }
            if (across_outputs(k) && (k.op != QCONV_OP_FORWARD || k.word_bits != 8 || k.input_planes != 1)) {
                return "a width_block of 1 on b1b1 is for forward with words of 8 bits and one input plane";
            }
            return nullptr;
        case QCONV_PATH_INT8:
            if ((k.word_bits != 32 && k.word_bits != 16) || (k.element_bits != 8 && k.element_bits != 16)) {
                return "int8 words have 16 or 32 bits and elements of 8 or 16";
            }
            if (k.level_offset != 0 && k.level_offset != 128) return "level_offset is 0 or 128";
            return nullptr;
        case QCONV_PATH_F32B1:
            if (k.tables < 1 || k.table_channels < 1 || k.table_channels > 8) {
                return "f32b1 needs tables, and 1..8 table_channels";
            }
            return nullptr;
        case QCONV_PATH_F32F32:
            return k.tables == 0 ? nullptr : "f32f32 has no tables";
        case QCONV_PATHS:
            break;
    }
    return nullptr;
}

const char *path_name(qconv_path path) noexcept {
    switch (path) {
        case QCONV_PATH_B1B1:
            return "b1b1";
        case QCONV_PATH_INT8:
            return "int8";
        case QCONV_PATH_F32B1:
            return "f32b1";
        case QCONV_PATH_F32F32:
            return "f32f32";
        case QCONV_PATHS:
            break;
    }
    return nullptr;
}

const char *op_name(qconv_op op) noexcept {
    switch (op) {
        case QCONV_OP_FORWARD:
            return "forward";
        case QCONV_OP_GRAD_INPUT:
            return "grad_input";
        case QCONV_OP_GRAD_WEIGHT:
            return "grad_weight";
        case QCONV_OP_SAVE_STATE:
            return "save_state";
        case QCONV_OP_TO_BITS:
            return "to_bits";
        case QCONV_OP_BITS_TO_BITS:
            return "bits_to_bits";
        case QCONV_OP_BITS_TO_FLOAT:
            return "bits_to_float";
        case QCONV_OP_GRAD_BIAS:
            return "grad_bias";
        case QCONV_OPS:
            break;
    }
    return nullptr;
}

const AcrossFork registry_across_fork{
    [] { registry().mutex.lock(); },
    [] { registry().mutex.unlock(); },
    [] { new (&registry().mutex) std::shared_mutex; },
};

void register_kernels(std::span<const qconv_kernel> rows) {
    Registry &shared = registry();
    const std::unique_lock lock(shared.mutex);
    std::vector<const qconv_kernel *> merged = shared.rows;
    for (const qconv_kernel &row : rows) {
        check_row(row);
        bool known = false;
        for (const qconv_kernel *other : merged) {
            if (!same_identity(row, *other)) continue;
            if (!same_content(row, *other)) {
                throw Error(QCONV_INVALID_ARGUMENT,
                            "kernel " + full_name(row) + " is registered already, with different content");
            }
            known = true;
        }
        if (!known) merged.push_back(&row);
    }
    shared.rows.swap(merged);
}

std::size_t kernel_count() {
    Registry &shared = registry();
    const std::shared_lock lock(shared.mutex);
    return shared.rows.size();
}

const qconv_kernel *kernel_at(std::size_t index) {
    Registry &shared = registry();
    const std::shared_lock lock(shared.mutex);
    return index < shared.rows.size() ? shared.rows[index] : nullptr;
}

bool specialised(const qconv_kernel &kernel) {
    return kernel.in_channels != 0;
}

bool names_kernel(const qconv_layer_config &config, qconv_op op) {
    return !Forced(forced_field(config, op).value).name.empty();
}

const qconv_kernel *find_kernel(const qconv_layer_config &config, qconv_op op, CpuFeatures features) {
    Search search;
    return find(config, op, features, DeviceKind::Cpu, search);
}

const qconv_kernel &select_kernel(const qconv_layer_config &config, qconv_op op, CpuFeatures features,
                                  DeviceKind device) {
    Search search;
    const qconv_kernel *best = find(config, op, features, device, search);
    if (best == nullptr) {
        throw_no_kernel(config, op, Forced(forced_field(config, op).value), search, features, device);
    }
    return *best;
}

} // namespace qconv
