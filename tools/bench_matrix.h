// qconvc bench --matrix: every quantizer of inputs with every quantizer of weights.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tools/bench.h"
#include "tools/bench_rows.h"
#include "tools/targets.h"

namespace qconv::tools {

/// What the matrix is made of: bench/matrix.json.
struct Matrix {
    std::vector<std::string> rows; // of the built-in table, where nothing else is asked for
    std::vector<std::string> inputs, weights;
};
Matrix builtin_matrix();

/// One pair of quantizers on one row, timed in one direction. What it is compared with is sign/sign.
struct MatrixCell {
    std::string row, input, weight;
    BenchWork work;
    bool binary = false; // both quantizers give -1 and +1 alone
    BenchResult result;
};

struct MatrixReport {
    Matrix matrix;
    std::vector<BenchWork> works;
    std::vector<MatrixCell> cells; // by row, then work, then input, then weight
    size_t wanted = 0;             // cells
    int threads = 1, cpu = -1;

    size_t failed() const;
};

/// Times all pairs of the matrix on every row (QConv1d layers, whose own quantizers do not count), in each of the
/// report's works, with the generic kernels of `target`. Unless JSON is wanted, each input quantizer's line is printed
/// as it comes. A cell that fails is one with an error; an interrupt ends the run early.
void bench_matrix(const std::vector<BenchRow> &rows, const BenchSettings &settings, const TargetInfo &target,
                  MatrixReport &report, PeakMeter &peaks);

/// The head of a row's table in one direction, and one of its lines.
void print_matrix_header(const MatrixReport &report, const std::string &row, const BenchWork &work,
                         const PeakMeter &peaks);
void print_matrix_line(const std::vector<MatrixCell> &cells, size_t first);
/// For each direction: means, the pairs that take longest beside sign/sign, and those with the least of the peak.
void print_matrix_summary(const MatrixReport &report, const PeakMeter &peaks);
nlohmann::json matrix_json(const MatrixReport &report, const PeakMeter &peaks);

} // namespace qconv::tools
