// The kernels of this process, and the choice among them.
#pragma once

#include <cstddef>
#include <span>

#include "cpu_features.h"
#include "qconv/qconv.h"

namespace qconv {

const char *path_name(qconv_path path) noexcept;
const char *op_name(qconv_op op) noexcept;

/// What keeps the layout fields from making sense together; NULL if they do.
const char *layout_defect(const qconv_kernel &kernel);

/// All or nothing: throws, and adds none, when a row is malformed or a different kernel of its name and target exists.
/// Rows that are registered already are passed over.
void register_kernels(std::span<const qconv_kernel> rows);
extern const AcrossFork registry_across_fork;
std::size_t kernel_count();
/// NULL past the end.
const qconv_kernel *kernel_at(std::size_t index);

/// Whether the kernel was compiled for one layer's shape.
bool specialised(const qconv_kernel &kernel);

/// Whether the configuration forces the one kernel of an op, by its name.
bool names_kernel(const qconv_layer_config &config, qconv_op op);

/// As select_kernel for CPUs, but NULL when there is none.
const qconv_kernel *find_kernel(const qconv_layer_config &config, qconv_op op, CpuFeatures features);

/// The kernel of one op for a checked configuration whose directions include it, among those for CPUs or for one kind
/// of device: what the configuration forces for that
/// direction ("NAME", "NAME@TARGET" or "@TARGET"), else specialised before generic, then the preferred target, then the
/// least estimated cost. Throws when there is none.
const qconv_kernel &select_kernel(const qconv_layer_config &config, qconv_op op, CpuFeatures features,
                                  DeviceKind device = DeviceKind::Cpu);

} // namespace qconv
