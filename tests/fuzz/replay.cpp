// Runs a fuzz target without libFuzzer: on every file of the folders given, then on random bytes from a seed.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int main(int argc, char **argv) {
    if (argc < 2) {
        std::fprintf(stderr, "usage: %s RANDOM_RUNS [CORPUS_FOLDER...]\n", argv[0]);
        return 2;
    }
    int runs = 0;
    for (int i = 2; i < argc; i++) {
        for (const auto &entry : std::filesystem::directory_iterator(argv[i])) {
            std::ifstream stream(entry.path(), std::ios::binary);
            const std::vector<char> text{std::istreambuf_iterator<char>(stream), {}};
            LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t *>(text.data()), text.size());
            runs++;
        }
    }
    constexpr unsigned seed = 1;
    const int random_runs = std::atoi(argv[1]);
    std::mt19937 random(seed);
    for (int i = 0; i < random_runs; i++, runs++) {
        std::vector<uint8_t> bytes(random() % 1024);
        for (uint8_t &byte : bytes)
            byte = static_cast<uint8_t>(random());
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    std::printf("%d inputs, %d of them random with seed %u\n", runs, random_runs, seed);
    return 0;
}
