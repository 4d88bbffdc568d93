// qconvc run: one layer on tensors from files.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "qconv/qconv.h"
#include "tools/commands.h"
#include "tools/errors.h"
#include "tools/files.h"
#include "tools/kernel_loading.h"
#include "tools/layer_file.h"
#include "tools/npy.h"
#include "tools/text.h"
#include "tools/worker_pool.h"

namespace qconv::tools {
namespace {

struct Options {
    std::string layer, name, input, weight, bias, output, target = "host", kernel, kernels = "generic";
    int threads = 0, repeat = 1;
    bool json = false;
};

struct Dimension {
    const char *name;
    int64_t size; // -1: any
};

/// Reads a tensor of the wanted shape; the message of a mismatch names the dimension and where its size comes from.
Tensor read_tensor(const std::string &path, const char *option, const std::vector<Dimension> &wanted) {
    Tensor tensor = read_npy(path);
    std::vector<std::string> shown;
    for (const Dimension &d : wanted)
        shown.push_back(d.size < 0 ? d.name : fmt::format("{} {}", d.name, d.size));
    const auto fail = [&](const std::string &what) {
        return InputError(fmt::format("{} ({}): shape {}: {}; it must be [{}]", path, option, shown_shape(tensor.shape),
                                      what, join(shown)));
    };
    if (tensor.shape.size() != wanted.size()) throw fail(fmt::format("rank {}", tensor.shape.size()));
    for (std::size_t i = 0; i < wanted.size(); i++) {
        if (wanted[i].size >= 0 && tensor.shape[i] != wanted[i].size) {
            throw fail(fmt::format("dimension {} is {}", i, tensor.shape[i]));
        }
    }
    return tensor;
}

void check(qconv_status status, const std::string &what) {
    if (status == QCONV_OK) return;
    const std::string text = fmt::format("{}: {}", what, qconv_last_error());
    if (status == QCONV_INVALID_ARGUMENT || status == QCONV_NO_KERNEL) throw InputError(text);
    throw EnvironmentError(text);
}

void run(const Options &options) {
    LayerSpec layer = read_one_layer(options.layer, options.name);
    qconv_layer_config &config = layer.config;
    if (layer.bias && options.bias.empty()) {
        throw InputError(fmt::format("layer '{}' has a bias: give it with --bias b.npy", layer.name));
    }
    if (!layer.bias && !options.bias.empty()) {
        throw InputError(fmt::format("--bias: layer '{}' has none ('bias' is false)", layer.name));
    }
    const Tensor x =
        read_tensor(options.input, "--input", {{"batch", -1}, {"in_channels", config.in_channels}, {"width", -1}});
    const Tensor weight = read_tensor(options.weight, "--weight",
                                      {{"out_channels", config.out_channels},
                                       {"in_channels/groups", config.in_channels / config.groups},
                                       {"kernel_size", config.kernel_size}});
    Tensor bias;
    if (layer.bias) bias = read_tensor(options.bias, "--bias", {{"out_channels", config.out_channels}});

    const std::vector<TargetInfo> targets = find_targets({options.target});
    if (targets.size() != 1) throw InputError("--target: run takes one target");
    require_cpu_support(targets[0]);
    if (options.kernels == "generic") {
        register_generic_kernels(targets);
    } else {
        register_specialised_kernels({layer}, targets, usable_cpus());
    }
    if (!options.kernel.empty()) config.kernel = options.kernel.c_str();
    if (options.threads > 0) check(qconv_set_num_threads(options.threads), "--threads");

    const std::string where = fmt::format("{}: layer '{}'", options.layer, layer.name);
    qconv_layer *created = nullptr;
    check(qconv_layer_create(&config, weight.data.data(), layer.bias ? bias.data.data() : nullptr, &created), where);
    const std::unique_ptr<qconv_layer, void (*)(qconv_layer *)> handle(created, qconv_layer_destroy);
    const int64_t batch = x.shape[0], width = x.shape[2];
    int64_t width_out = 0;
    check(qconv_layer_width_out(created, width, &width_out), fmt::format("{} ({})", options.input, where));
    const std::vector<int64_t> shape = {batch, config.out_channels, width_out};
    std::vector<float> y(static_cast<std::size_t>(batch * config.out_channels * width_out));

    double least = INFINITY;
    for (int i = 0; i < options.repeat; i++) {
        check_interrupt();
        const auto start = std::chrono::steady_clock::now();
        check(qconv_layer_forward(created, x.data.data(), batch, width, y.data(), nullptr, 0), where);
        least = std::min(least, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    }
    write_npy(options.output, shape, y);

    const qconv_kernel &kernel = *qconv_layer_kernel(created, QCONV_FORWARD);
    if (options.json) {
        const nlohmann::ordered_json json = {{"layer", layer.name},
                                             {"kernel", kernel.name},
                                             {"path", qconv_path_name(kernel.path)},
                                             {"target", kernel.target},
                                             {"specialised", kernel.in_channels > 0},
                                             {"threads", qconv_get_num_threads()},
                                             {"seconds", least},
                                             {"output", options.output},
                                             {"shape", shape}};
        fmt::print("{}\n", json.dump(2));
        return;
    }
    fmt::print("{}: {} with {} ({}, {}), {} threads, {}\n", layer.name, describe_layer(layer), kernel.name,
               qconv_path_name(kernel.path), kernel.target, qconv_get_num_threads(), human_seconds(least));
    fmt::print("{}: float32 {}\n", options.output, shown_shape(shape));
}

} // namespace

void add_run_command(CLI::App &app) {
    auto options = std::make_shared<Options>();
    CLI::App *command = app.add_subcommand("run", "Run one layer on tensors from .npy files");
    command->add_option("-l,--layer", options->layer, "Layer file")->required();
    command->add_option("--name", options->name, "Which layer, when the file holds several");
    command->add_option("-x,--input", options->input, "x [batch, in_channels, width]")->required();
    command->add_option("-w,--weight", options->weight, "weight [out_channels, in_channels/groups, kernel_size]")
        ->required();
    command->add_option("-b,--bias", options->bias, "bias [out_channels], for a conv1d with \"bias\": true");
    command->add_option("-o,--output", options->output, "y [batch, out_channels, width_out]")->required();
    command->add_option("-t,--target", options->target, "Target whose kernels to use")->capture_default_str();
    command->add_option("--kernels", options->kernels, "generic, or specialised: compile the layer first")
        ->check(CLI::IsMember({"generic", "specialised"}))
        ->capture_default_str();
    command->add_option("--kernel", options->kernel, "The one kernel to use (qconvc list kernels); default: the best");
    command->add_option("--threads", options->threads, "Threads; default: all this process may use")
        ->check(CLI::Range(1, 1024));
    command->add_option("--repeat", options->repeat, "Calls; the least time is shown")
        ->check(CLI::Range(1, 1000000))
        ->capture_default_str();
    command->add_flag("--json", options->json, "Print JSON");
    command->footer(
        ".npy files are float32, little-endian, C order.\n\n"
        "Examples:\n"
        "  qconvc run --layer conv.json --input x.npy --weight w.npy --output y.npy\n"
        "  qconvc run -l net.json --name conv2 -x x.npy -w w.npy -o y.npy --target avx2 --repeat 100");
    command->callback([options] { run(*options); });
}

} // namespace qconv::tools
