// The golden vectors of tests/golden, made by the real bitorch; make_golden.py says what the files hold.
#pragma once

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <vector>

#include "qconv/qconv.h"
#include "support/catch.h"
#include "tools/layer_file.h"

namespace qconv::test {

struct Golden {
    std::vector<tools::LayerSpec> layers;
    nlohmann::json cases;
    std::vector<float> data;
};

/// The three files of one stem.
inline Golden read_golden(const std::string &stem) {
    const std::filesystem::path folder = QCONV_TEST_DATA "/golden";
    Golden golden;
    golden.layers = tools::read_layer_file(folder / (stem + "_layers.json"));
    golden.cases = nlohmann::json::parse(std::ifstream(folder / (stem + ".json"))).at("cases");
    const std::filesystem::path numbers = folder / (stem + ".bin");
    golden.data.resize(std::filesystem::file_size(numbers) / sizeof(float));
    std::ifstream(numbers, std::ios::binary)
        .read(reinterpret_cast<char *>(golden.data.data()),
              static_cast<std::streamsize>(golden.data.size() * sizeof(float)));
    REQUIRE(golden.cases.size() == golden.layers.size());
    for (size_t n = 0; n < golden.layers.size(); n++)
        REQUIRE(golden.cases[n].at("name") == golden.layers[n].name);
    return golden;
}

} // namespace qconv::test
