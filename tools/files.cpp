#include "tools/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <utility>

#include "tools/errors.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

volatile std::sig_atomic_t signal_seen = 0;

EnvironmentError cannot(const char *what, const fs::path &path, int error) {
    return EnvironmentError(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(error)));
}

} // namespace

/// A file under a temporary name, removed unless renamed.
class PendingFile {
public:
    explicit PendingFile(const fs::path &path) : final_(path), name_(path.string() + ".tmp-XXXXXX") {
        descriptor_ = mkstemp(name_.data());
        if (descriptor_ < 0) throw cannot("create it", final_, errno);
    }
    ~PendingFile() {
        if (descriptor_ >= 0) close(descriptor_);
        if (!name_.empty()) unlink(name_.c_str());
    }
    PendingFile(const PendingFile &) = delete;
    PendingFile &operator=(const PendingFile &) = delete;

    void write(std::string_view text) {
        while (!text.empty()) {
            check_interrupt();
            const ssize_t count = ::write(descriptor_, text.data(), std::min<std::size_t>(text.size(), 1 << 24));
            if (count < 0 && errno == EINTR) continue;
            if (count < 0) throw cannot("write it", final_, errno);
            text.remove_prefix(static_cast<std::size_t>(count));
        }
    }
    /// Nothing can go wrong with its content after this.
    void finish() {
        // mkstemp makes files private; give what an ordinary new file has.
        const mode_t mask = umask(0);
        umask(mask);
        fchmod(descriptor_, 0666 & ~mask);
        const int closed = close(std::exchange(descriptor_, -1));
        if (closed != 0) throw cannot("write it", final_, errno);
    }
    void commit() {
        if (rename(name_.c_str(), final_.c_str()) != 0) throw cannot("put it in place", final_, errno);
        name_.clear();
    }

private:
    fs::path final_;
    std::string name_;
    int descriptor_ = -1;
};

std::string read_text(const fs::path &path) {
    std::error_code error;
    if (fs::is_directory(path, error)) throw InputError(fmt::format("{}: is a folder, not a file", path.string()));
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw InputError(fmt::format("{}: cannot read it: {}", path.string(), std::strerror(errno)));
    std::ostringstream text;
    text << stream.rdbuf();
    if (stream.bad()) throw InputError(fmt::format("{}: reading it failed", path.string()));
    return std::move(text).str();
}

FileSet::FileSet() = default;
FileSet::~FileSet() = default;

void FileSet::add(const fs::path &path, std::span<const std::string_view> pieces) {
    auto file = std::make_unique<PendingFile>(path);
    for (const std::string_view piece : pieces)
        file->write(piece);
    file->finish();
    files_.push_back(std::move(file));
}

void FileSet::commit() {
    check_interrupt();
    for (const std::unique_ptr<PendingFile> &file : files_)
        file->commit();
    files_.clear();
}

void write_atomically(const fs::path &path, std::string_view text) {
    FileSet files;
    files.add(path, std::span<const std::string_view>(&text, 1));
    files.commit();
}

ScratchFolder::ScratchFolder(const fs::path &parent) : parent_(parent) {
    if (parent.empty()) throw InputError("the output folder's name is empty");
    std::error_code error;
    std::vector<fs::path> missing;
    for (fs::path above = fs::absolute(parent).lexically_normal(); !fs::exists(above, error);) {
        if (above.has_filename()) missing.push_back(above);
        if (above == above.parent_path()) break;
        above = above.parent_path();
    }
    for (auto folder = missing.rbegin(); folder != missing.rend(); ++folder) {
        if (!fs::create_directory(*folder, error) && error) {
            const int reason = error.value();
            for (auto made = made_.rbegin(); made != made_.rend(); ++made)
                fs::remove(*made, error);
            throw cannot("make this output folder", *folder, reason);
        }
        made_.push_back(*folder);
    }
    if (!fs::is_directory(parent_)) {
        throw EnvironmentError(fmt::format("{}: is a file; the output folder must be a folder", parent_.string()));
    }
    std::string name = (parent_ / ".qconvc-XXXXXX").string();
    if (!mkdtemp(name.data())) throw cannot("write into this output folder", parent_, errno);
    path_ = name;
}

ScratchFolder::~ScratchFolder() {
    std::error_code ignored; // a destructor has nobody to tell
    fs::remove_all(path_, ignored);
    for (auto folder = made_.rbegin(); folder != made_.rend(); ++folder)
        fs::remove(*folder, ignored);
}

void ScratchFolder::publish(const std::vector<std::string> &names) {
    check_interrupt();
    for (const std::string &name : names) {
        if (rename((path_ / name).c_str(), (parent_ / name).c_str()) != 0) {
            throw cannot("put it in place", parent_ / name, errno);
        }
        made_.clear();
    }
}

void catch_interrupts() {
    struct sigaction action{};
    action.sa_handler = [](int) { signal_seen = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP})
        sigaction(signal, &action, nullptr);
    signal(SIGXFSZ, SIG_IGN);
}

bool interrupted() {
    return signal_seen != 0;
}

void check_interrupt() {
    if (interrupted()) throw Interrupted();
}

} // namespace qconv::tools
