// adams2019's cost model, retrained on what was measured. Halide's own programs do the work: featurization_to_sample
// and adams2019_retrain_cost_model, from its wheel.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "tools/tune_build.h"

namespace qconv::tools {

class CostModel {
public:
    /// Samples and weights are kept beside the records; weights in `weights`, named by target and contents. With
    /// `enabled` false, and where Halide's programs are missing, nothing is ever trained.
    CostModel(const std::filesystem::path &records, const std::filesystem::path &weights, const TargetInfo &target,
              bool enabled);

    /// Takes the features of a measured adams2019 trial, whose files are still there.
    void add_sample(const Trial &trial, const BuildSettings &settings);
    /// Trains, going on from the last weights, if there are enough new samples. Returns whether it did.
    bool retrain();
    /// The file name of the weights trained last; "": none.
    const std::string &weights() const { return weights_; }
    std::size_t samples() const { return samples_; }

private:
    std::filesystem::path samples_folder_, weights_folder_, programs_;
    std::string target_, weights_;
    bool enabled_;
    std::size_t samples_ = 0, trained_on_ = 0;
};

} // namespace qconv::tools
