// Dispatch: the choice among kernels, forced kernels, the kernel list.
#include "runtime/registry.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "qconv/error.hpp"
#include "runtime/arithmetic.h"
#include "runtime/cpu_features.h"
#include "runtime/select.h"
#include "runtime/surrogate.h"
#include "support/catch.h"
#include "support/layer_case.h"
#include "support/targets.h"

namespace qconv::test {
namespace {

/// A shape no other test uses, so that specialised rows registered here serve none of their layers.
constexpr int64_t kOddChannels = 977;

qconv_layer_config config_of(const std::string &pair_name) {
    qconv_layer_config config;
    qconv_layer_config_init(&config, QCONV_LAYER_QCONV1D);
    for (const Pair &pair : pairs()) {
        if (pair.name == pair_name) apply(pair, config);
    }
    config.in_channels = 64;
    config.out_channels = 48;
    config.kernel_size = 3;
    config.pad_left = config.pad_right = 1;
    config.pad_value = 0;
    return config;
}

const std::string kPairOfPath[QCONV_PATHS] = {"sign/sign", "inputdorefa8/weightdorefa8", "NoAct sign", "conv1d"};

/// Message of the failure of body(), which must have that status.
template <typename Body>
std::string failure(qconv_status status, const Body &body) {
    try {
        body();
    } catch (const Error &error) {
        CHECK(error.status() == status);
        return error.what();
    }
    FAIL_CHECK("no failure, expected " << qconv_status_name(status));
    return "";
}

bool names(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

/// Back to the real CPU at the end of a scope.
struct PretendCpu {
    explicit PretendCpu(CpuFeatures features) { override_cpu_features(features); }
    ~PretendCpu() { override_cpu_features(std::nullopt); }
};

CpuFeatures everything() {
    CpuFeatures all;
    for (const KernelTarget &target : kernel_targets())
        all = all | target.needs;
    return all;
}

TEST_CASE("registry: the best target of this CPU", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const KernelTarget *best = best_target(cpu_features());
    REQUIRE(best != nullptr);
    // A build of few targets may lack the best one.
    const std::string best_built = runnable_targets().front();
    if (const char *expected = std::getenv("QCONV_TEST_EXPECT_TARGET")) {
        REQUIRE(std::string(best->name) == expected);
    }
    for (const KernelTarget &target : built_targets()) {
        const char *missing = nullptr;
        const bool supported = qconv_cpu_supports(target.name, &missing) != 0;
        INFO(target.name << ", missing: " << missing);
        CHECK(supported == (target_rank(target.name) >= target_rank(best->name)));
        CHECK(std::string(missing).empty() == supported);
        for (const std::string &pair : kPairOfPath) {
            qconv_layer_config config = config_of(pair);
            const std::vector<float> weight(64 * 48 * 3, 0.25f);
            const std::string force = std::string("@") + target.name;
            qconv_layer *layer = nullptr;
            REQUIRE(qconv_layer_create(&config, weight.data(), nullptr, &layer) == QCONV_OK);
            CHECK(std::string(qconv_layer_kernel(layer, QCONV_FORWARD)->target) == best_built);
            qconv_layer_destroy(layer);
            layer = nullptr;
            config.kernel = force.c_str();
            const qconv_status status = qconv_layer_create(&config, weight.data(), nullptr, &layer);
            const LayerPtr owner(layer);
            if (supported) {
                REQUIRE(status == QCONV_OK);
                CHECK(std::string(qconv_layer_kernel(layer, QCONV_FORWARD)->target) == target.name);
            } else {
                CHECK(status == QCONV_UNSUPPORTED_CPU);
                CHECK(names(qconv_last_error(), missing));
                CHECK(names(qconv_last_error(), target.name));
            }
        }
    }
    const char *missing = nullptr;
    CHECK(qconv_cpu_supports("avx1024", &missing) == 0);
    // Another architecture's kernels say what they lack as well.
    const bool x86 = std::string_view(best->halide_target).starts_with("x86");
    CHECK(qconv_cpu_supports(x86 ? "arm64" : "sse41", &missing) == 0);
    CHECK(std::string(missing) == (x86 ? "asimd" : "sse3"));
}

TEST_CASE("registry: a lesser CPU gets lesser kernels", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const std::vector<float> weight(64 * 48 * 3, 0.25f);
    const qconv_layer_config config = config_of("sign/sign");
    for (const KernelTarget &target : built_targets()) {
        const PretendCpu pretend(target.needs);
        qconv_layer *layer = nullptr;
        REQUIRE(qconv_layer_create(&config, weight.data(), nullptr, &layer) == QCONV_OK);
        const LayerPtr owner(layer);
        CHECK(std::string(qconv_layer_kernel(layer, QCONV_FORWARD)->target) == target.name);
    }
    const PretendCpu none{CpuFeatures{}};
    qconv_layer *layer = nullptr;
    CHECK(qconv_layer_create(&config, weight.data(), nullptr, &layer) == QCONV_NO_KERNEL);
    CHECK(names(qconv_last_error(), missing_feature(built_targets().back(), CpuFeatures{})));
}

TEST_CASE("registry: the choice, by target and estimated cost", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const KernelTarget &target : built_targets()) {
        for (int path = 0; path < QCONV_PATHS; ++path) {
            const qconv_layer_config config = config_of(kPairOfPath[path]);
            const qconv_kernel &chosen = select_kernel(config, QCONV_OP_FORWARD, target.needs);
            INFO(target.name << ", " << kPairOfPath[path] << ": " << chosen.name);
            CHECK(std::string(chosen.target) == target.name);
            // Where 8-bit products cost as much as float ones, either will do; the other paths have no rival.
            if (path != QCONV_PATH_INT8) CHECK(chosen.path == path);
        }
        for (const Pair &pair : pairs()) {
            qconv_layer_config config = config_of(pair.name);
            const qconv_kernel &chosen = select_kernel(config, QCONV_OP_FORWARD, target.needs);
            CHECK(chosen.in_channels == 0);
            const double cost = estimate_cost(chosen, config);
            CHECK(std::isfinite(cost));
            CHECK(cost > 0);
            for (size_t i = 0; i < kernel_count(); ++i) {
                const qconv_kernel &other = *kernel_at(i);
                if (other.op != QCONV_OP_FORWARD || other.target != target.name || other.in_channels != 0) continue;
                const double other_cost = estimate_cost(other, config);
                INFO(pair.name << ": " << chosen.name << " at " << cost << ", " << other.name << " at " << other_cost);
                if (mismatch(other, config) == nullptr) CHECK(cost <= other_cost);
            }
        }
    }
}

TEST_CASE("registry: forced kernels", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (size_t i = 0; i < kernel_count(); ++i) {
        const qconv_kernel &kernel = *kernel_at(i);
        if (kernel.in_channels != 0) continue;
        for (const std::string &pair : kPairOfPath) {
            qconv_layer_config config = config_of(pair);
            std::string name;
            force_kernel(config, kernel, name);
            const bool serves = kernel.op == QCONV_OP_FORWARD && mismatch(kernel, config) == nullptr &&
                                std::isfinite(estimate_cost(kernel, config));
            INFO(name << " for " << pair);
            if (serves) {
                CHECK(&select_kernel(config, QCONV_OP_FORWARD, everything()) == &kernel);
                const std::string text = failure(QCONV_UNSUPPORTED_CPU, [&] {
                    select_kernel(config, QCONV_OP_FORWARD, CpuFeatures{CpuFeature::Sse3});
                });
                const CpuFeatures sse3{CpuFeature::Sse3};
                CHECK(names(text, missing_feature(*find_target(kernel.target), sse3)));
                config.kernel = kernel.name; // on any target
                CHECK(std::string(select_kernel(config, QCONV_OP_FORWARD, everything()).name) == kernel.name);
            } else {
                const std::string text =
                    failure(QCONV_NO_KERNEL, [&] { select_kernel(config, QCONV_OP_FORWARD, everything()); });
                CHECK(names(text, name));
            }
        }
    }
    qconv_layer_config config = config_of("sign/sign");
    for (const char *unknown : {"no_such_kernel", "no_such_kernel@avx2", "@avx1024", "@", ""}) {
        config.kernel = unknown;
        if (std::strlen(unknown) < 2) continue; // forces nothing
        INFO(unknown);
        CHECK(names(failure(QCONV_NO_KERNEL, [&] { select_kernel(config, QCONV_OP_FORWARD, everything()); }), unknown));
    }
}

TEST_CASE("registry: the kernel list is what is registered", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    const auto list = nlohmann::json::parse(std::ifstream(QCONV_TEST_DATA "/../kernels.json"));
    std::set<std::string> expected, registered;
    for (const auto &row : list) {
        for (const auto &target : row.at("targets")) {
            const auto built = [&](const KernelTarget &t) { return t.name == target.get<std::string>(); };
            const std::vector<KernelTarget> targets = built_targets();
            if (std::none_of(targets.begin(), targets.end(), built)) continue;
            expected.insert(row.at("name").get<std::string>() + "@" + target.get<std::string>());
        }
    }
    for (size_t i = 0; i < kernel_count(); ++i) {
        const qconv_kernel &kernel = *kernel_at(i);
        if (kernel.in_channels != 0) continue;
        INFO(kernel.name << "@" << kernel.target << " is there twice");
        CHECK(registered.insert(std::string(kernel.name) + "@" + kernel.target).second);
    }
    CHECK(registered == expected);
    for (const KernelTarget &target : built_targets()) {
        std::set<qconv_path> paths;
        std::set<qconv_op> ops;
        for (size_t i = 0; i < kernel_count(); ++i) {
            if (std::string(kernel_at(i)->target) != target.name) continue;
            ops.insert(kernel_at(i)->op);
            if (kernel_at(i)->op == QCONV_OP_FORWARD) paths.insert(kernel_at(i)->path);
        }
        INFO(target.name);
        CHECK(paths.size() == QCONV_PATHS);
        // Chaining layers through packed signs takes three kernels, or there is none.
        const auto chaining = static_cast<int>(ops.count(QCONV_OP_TO_BITS) + ops.count(QCONV_OP_BITS_TO_BITS) +
                                               ops.count(QCONV_OP_BITS_TO_FLOAT));
        CHECK((chaining == 0 || chaining == 3));
        CHECK(static_cast<int>(ops.size()) == QCONV_OPS - 4 + chaining); // grad_bias is the devices'
    }
}

constexpr qconv_op kOps[] = {QCONV_OP_FORWARD, QCONV_OP_GRAD_INPUT, QCONV_OP_GRAD_WEIGHT, QCONV_OP_SAVE_STATE};

TEST_CASE("registry: the choice for each op", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    for (const KernelTarget &target : built_targets())
        for (const Pair &pair : pairs())
            for (const qconv_op op : kOps) {
                qconv_layer_config config = config_of(pair.name);
                config.directions = QCONV_TRAINING;
                INFO(target.name << ", " << pair.name << ", " << qconv_op_name(op));
                if (op == QCONV_OP_SAVE_STATE && saved(config) != QCONV_SAVES_STATE) {
                    failure(QCONV_NO_KERNEL, [&] { select_kernel(config, op, target.needs); });
                    continue;
                }
                const qconv_kernel &chosen = select_kernel(config, op, target.needs);
                CHECK(chosen.op == op);
                CHECK(std::string(chosen.target) == target.name);
                for (size_t i = 0; i < kernel_count(); ++i) {
                    const qconv_kernel &other = *kernel_at(i);
                    if (other.op != op || std::string(other.target) != target.name || other.in_channels != 0) continue;
                    INFO(chosen.name << " or " << other.name);
                    if (mismatch(other, config) == nullptr) {
                        CHECK(estimate_cost(chosen, config) <= estimate_cost(other, config));
                    }
                }
            }
    // Large binary layers look up their gradients; the paths have no rival there.
    qconv_layer_config large = config_of("sign/sign");
    large.in_channels = large.out_channels = 256;
    large.directions = QCONV_TRAINING;
    for (const KernelTarget &target : built_targets()) {
        CHECK(select_kernel(large, QCONV_OP_GRAD_INPUT, target.needs).path == QCONV_PATH_F32B1);
        CHECK(select_kernel(large, QCONV_OP_GRAD_WEIGHT, target.needs).path == QCONV_PATH_F32B1);
    }
}

TEST_CASE("registry: the expected width", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_layer_config config = config_of("sign/sign");
    config.directions = QCONV_TRAINING;
    const auto cost = [&](const qconv_kernel &kernel, int64_t width) {
        qconv_layer_config expected = config;
        expected.width = width;
        return estimate_cost(kernel, expected);
    };
    for (size_t i = 0; i < qconv_kernel_count(); i++) {
        const qconv_kernel &kernel = *qconv_kernel_at(i);
        double least = cost(kernel, 0);
        // One position at a time leaves none idle, but shares the window's reach among few.
        const bool in_blocks = !across_outputs(kernel);
        if (in_blocks && (kernel.op == QCONV_OP_FORWARD || kernel.op == QCONV_OP_GRAD_INPUT)) {
            // Columns of one block are computed whole: one costs as much as all.
            const int64_t whole = kernel.width_block;
            INFO(kernel.name << " for " << kernel.target);
            // Where no width is expected, wide strips are taken to be partly idle.
            CHECK(cost(kernel, whole) <= least);
            least = cost(kernel, whole);
            CHECK(cost(kernel, 1) == least * static_cast<double>(whole));
        }
        for (const int64_t width : {int64_t{1}, int64_t{1} << 40, std::numeric_limits<int64_t>::max()})
            CHECK(cost(kernel, width) >= least);
    }
    config.width = -1;
    CHECK(qconv_layer_config_check(&config) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "width"));
    CHECK(names(qconv_last_error(), "-1"));
}

TEST_CASE("registry: forced kernels of a direction", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    qconv_layer_config config = config_of("sign/sign");
    config.directions = QCONV_TRAINING;
    const qconv_kernel &input = select_kernel(config, QCONV_OP_GRAD_INPUT, everything());
    config.grad_weight_kernel = input.name; // which computes grad_input
    const std::string text =
        failure(QCONV_NO_KERNEL, [&] { select_kernel(config, QCONV_OP_GRAD_WEIGHT, everything()); });
    CHECK(names(text, "grad_weight_kernel"));
    CHECK(names(text, input.name));
    CHECK(&select_kernel(config, QCONV_OP_GRAD_INPUT, everything()) == &input); // by another field
    const std::string least = built_targets().back().name, forced = "@" + least;
    config.grad_input_kernel = forced.c_str();
    CHECK(std::string(select_kernel(config, QCONV_OP_GRAD_INPUT, everything()).target) == least);
}

int never_called(void **) {
    return 1;
}

/// A generic sign kernel, bound to the shape only this file uses and to a target that the build need not have.
qconv_kernel specialised_row(const char *name, const char *target) {
    const qconv_layer_config config = config_of("sign/sign");
    qconv_kernel row = select_kernel(config, QCONV_OP_FORWARD, everything());
    row.name = name;
    row.target = target;
    row.call = never_called;
    row.in_channels = row.out_channels = kOddChannels;
    row.kernel_size = 3;
    row.stride = row.dilation = row.groups = 1;
    return row;
}

TEST_CASE("registry: specialised before generic", "[registry]") {
    REQUIRE(qconv_register_generic_kernels() == QCONV_OK);
    static const qconv_kernel rows[] = {specialised_row("odd_layer", "sse41"), specialised_row("odd_layer", "avx2")};
    const size_t before = qconv_kernel_count();
    REQUIRE(qconv_register_kernels(rows, 2) == QCONV_OK);
    CHECK(qconv_kernel_count() == before + 2);
    CHECK(qconv_register_kernels(rows, 2) == QCONV_OK);
    CHECK(qconv_kernel_count() == before + 2);

    qconv_layer_config config = config_of("sign/sign");
    config.in_channels = config.out_channels = kOddChannels;
    CHECK(&select_kernel(config, QCONV_OP_FORWARD, find_target("sse41")->needs) == &rows[0]);
    CHECK(&select_kernel(config, QCONV_OP_FORWARD, find_target("avx2")->needs) == &rows[1]);
    CHECK(&select_kernel(config, QCONV_OP_FORWARD, everything()) ==
          &rows[1]); // ahead of a generic kernel of a better target
    for (const KernelTarget &target : built_targets()) {
        const std::string forced = std::string("@") + target.name;
        const bool specialised = forced == "@sse41" || forced == "@avx2";
        config.kernel = forced.c_str();
        INFO(forced);
        CHECK((select_kernel(config, QCONV_OP_FORWARD, everything()).in_channels != 0) == specialised);
    }
    config.kernel = nullptr;

    // One constant off, and the generic kernel serves.
    const auto generic_when = [&](int64_t qconv_layer_config::*field, int64_t value) {
        qconv_layer_config other = config;
        other.*field = value;
        return select_kernel(other, QCONV_OP_FORWARD, everything()).in_channels == 0;
    };
    CHECK(generic_when(&qconv_layer_config::in_channels, kOddChannels + 1));
    CHECK(generic_when(&qconv_layer_config::out_channels, kOddChannels + 1));
    CHECK(generic_when(&qconv_layer_config::kernel_size, 4));
    CHECK(generic_when(&qconv_layer_config::stride, 2));
    CHECK(generic_when(&qconv_layer_config::dilation, 2));
    CHECK(generic_when(&qconv_layer_config::groups, kOddChannels));
    CHECK_FALSE(generic_when(&qconv_layer_config::pad_left, 7));

    // Rows that contradict what is there, or themselves: refused, with all that came with them.
    static qconv_kernel bad[] = {specialised_row("another_layer", "sse41"), rows[0]};
    bad[1].out_block += 1;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "odd_layer"));
    bad[1] = specialised_row("misnamed@avx2", "avx2");
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    bad[1] = specialised_row("wrong_target", "avx2");
    bad[1].target = "avx1024";
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "avx1024"));
    bad[1] = specialised_row("no_entry", "avx2");
    bad[1].call = nullptr;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    bad[1] = specialised_row("no_block", "avx2");
    bad[1].out_block = 0;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "out_block"));
    bad[1] = specialised_row("side_by_side", "avx2");
    bad[1].path = QCONV_PATH_F32F32;
    bad[1].word_bits = bad[1].element_bits = bad[1].tables = 0;
    bad[1].out_block = 1, bad[1].width_block = 6, bad[1].group_block = 4;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "width_block must be a multiple of group_block"));
    bad[1].out_block = 2;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "group_block is for"));
    bad[1].group_block = 0, bad[1].tile_input = 1;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "tile_input is for"));
    bad[1] = specialised_row("packed_gradient", "avx2");
    bad[1].op = QCONV_OP_GRAD_INPUT;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "float"));
    bad[1].op = QCONV_OPS;
    CHECK(qconv_register_kernels(bad, 2) == QCONV_INVALID_ARGUMENT);
    CHECK(names(qconv_last_error(), "op"));
    CHECK(qconv_kernel_count() == before + 2);
}

} // namespace
} // namespace qconv::test
