#include "tools/files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <utility>

#include "tools/errors.h"

namespace qconv::tools {
namespace fs = std::filesystem;
namespace {

volatile std::sig_atomic_t signal_seen = 0;

constexpr int kStreams[] = {STDOUT_FILENO, STDERR_FILENO};

EnvironmentError cannot(const char *what, const fs::path &path, int error) {
    return EnvironmentError(fmt::format("{}: cannot {}: {}", path.string(), what, std::strerror(error)));
}

/// Where a path leads when it, or what it names, is a symbolic link: a new file takes the place of what the links lead
/// to, not of the first of them.
fs::path behind_links(fs::path path) {
    constexpr int kMostLinks = 40; // as the kernel has it
    std::error_code none;
    for (int links = 0; fs::is_symlink(path, none); links++) {
        if (links == kMostLinks) throw cannot("put it in place", path, ELOOP);
        path = path.parent_path() / fs::read_symlink(path);
    }
    return path;
}

/// Whether `path` is there and no ordinary file: a device, a pipe, a socket. What is written goes into it; a new file
/// in its place would destroy it. So is a standard stream's file, by whichever name: the stream goes on in it.
bool takes_bytes(const fs::path &path) {
    struct stat file{};
    if (stat(path.c_str(), &file) != 0 || S_ISDIR(file.st_mode)) return false;
    if (!S_ISREG(file.st_mode)) return true;
    return std::any_of(std::begin(kStreams), std::end(kStreams), [&](int stream) {
        struct stat open{};
        return fstat(stream, &open) == 0 && open.st_dev == file.st_dev && open.st_ino == file.st_ino;
    });
}

void write_all(int descriptor, std::string_view text, const fs::path &path) {
    while (!text.empty()) {
        check_interrupt();
        const ssize_t count = ::write(descriptor, text.data(), std::min<std::size_t>(text.size(), 1 << 24));
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) throw cannot("write it", path, errno);
        text.remove_prefix(static_cast<std::size_t>(count));
    }
}

/// Closes what it holds.
class Descriptor {
public:
    /// Opens a file, which may take until somebody opens a pipe's other end.
    Descriptor(const fs::path &path, int flags) {
        while ((number_ = open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY)) < 0 && errno == EINTR)
            check_interrupt();
    }
    explicit Descriptor(int number) : number_(number) {}
    ~Descriptor() { static_cast<void>(close_now()); }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;

    int number() const { return number_; }
    int close_now() { return number_ < 0 ? 0 : close(std::exchange(number_, -1)); }

private:
    int number_;
};

void write_straight(const fs::path &path, std::string_view text) {
    Descriptor file(path, O_WRONLY | O_APPEND);
    if (file.number() < 0) throw cannot("open it", path, errno);
    write_all(file.number(), text, path);
    if (file.close_now() != 0) throw cannot("write it", path, errno);
}

constexpr std::string_view kLockedPrefix = ".qconvc-";
constexpr std::size_t kLockedLength = kLockedPrefix.size() + 6;
constexpr const char *kLockName = ".qconvc-lock";

/// Opens and locks a folder's lock; -1 if it is not there or somebody has it.
int lock_folder(const fs::path &folder, int flags) {
    const int lock = open((folder / kLockName).c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (lock < 0 || flock(lock, LOCK_EX | LOCK_NB) == 0) return lock;
    close(lock);
    return -1;
}

/// Locked folders whose maker was killed.
void remove_abandoned(const fs::path &parent) {
    std::error_code none;
    for (fs::directory_iterator entry(parent, none), end; !none && entry != end; entry.increment(none)) {
        const fs::path folder = entry->path();
        const std::string name = folder.filename().string();
        if (!name.starts_with(kLockedPrefix) || name.size() != kLockedLength || entry->is_symlink(none)) continue;
        // The lock tells ours from whatever else has such a name. Killed at the very start, its maker left nothing in
        // it.
        const int lock = lock_folder(folder, 0);
        if (lock < 0) {
            rmdir(folder.c_str());
            continue;
        }
        fs::remove_all(folder, none);
        close(lock);
    }
}

} // namespace

/// A folder under a name of its own, with a lock in it that is held as long as this object lives. It goes away with
/// this object, or, if the process is killed, when the next one is made beside it.
class LockedFolder {
public:
    /// `failed(errno)` throws.
    template <class Failed>
    LockedFolder(const fs::path &parent, const Failed &failed) {
        remove_abandoned(parent);
        // Until it is locked, another process may take it for abandoned.
        std::error_code none;
        while (lock_ < 0 || !fs::exists(path_ / kLockName, none)) {
            if (lock_ >= 0) close(lock_);
            std::string name = (parent / kLockedPrefix).string() + "XXXXXX";
            if (!mkdtemp(name.data())) failed(errno);
            path_ = name;
            lock_ = lock_folder(path_, O_CREAT);
            if (lock_ >= 0 || errno == ENOENT || errno == EWOULDBLOCK) continue;
            const int error = errno;
            rmdir(path_.c_str());
            failed(error);
        }
    }
    ~LockedFolder() {
        std::error_code ignored; // a destructor has nobody to tell
        fs::remove_all(path_, ignored);
        close(lock_);
    }
    LockedFolder(const LockedFolder &) = delete;
    LockedFolder &operator=(const LockedFolder &) = delete;

    const fs::path &path() const { return path_; }

private:
    fs::path path_;
    int lock_ = -1;
};

/// A file in the making inside a LockedFolder beside its place; or bytes for a path that takes them.
class PendingFile {
public:
    /// `path` as the caller names it, `place` where it leads, `name` where it is made; "": it takes bytes.
    PendingFile(const fs::path &path, const fs::path &place, const fs::path &name)
        : path_(path), place_(place), name_(name), file_(name.empty() ? -1 : create(name)) {
        if (!straight() && file_.number() < 0) throw cannot("create it", path_, errno);
    }

    void write(std::string_view text) {
        if (straight()) {
            bytes_ += text;
        } else {
            write_all(file_.number(), text, path_);
        }
    }
    /// Nothing can go wrong with the content of a new file after this.
    void finish() {
        if (file_.close_now() != 0) throw cannot("write it", path_, errno);
    }
    bool straight() const { return name_.empty(); }
    void commit() {
        if (straight()) return write_straight(path_, bytes_);
        if (rename(name_.c_str(), place_.c_str()) != 0) throw cannot("put it in place", path_, errno);
    }

private:
    static int create(const fs::path &name) {
        return open(name.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    }

    fs::path path_, place_, name_;
    std::string bytes_;
    Descriptor file_;
};

std::string read_text(const fs::path &path) {
    const auto refuse = [&](const char *what) {
        return InputError(fmt::format("{}: {}: {}", path.string(), what, std::strerror(errno)));
    };
    std::error_code error;
    if (fs::is_directory(path, error)) throw InputError(fmt::format("{}: is a folder, not a file", path.string()));
    const Descriptor file(path, O_RDONLY);
    if (file.number() < 0) throw refuse("cannot read it");
    std::string text;
    for (std::array<char, 1 << 16> part;;) {
        const ssize_t count = read(file.number(), part.data(), part.size());
        if (count == 0) return text;
        if (count > 0) {
            text.append(part.data(), static_cast<std::size_t>(count));
        } else if (errno == EINTR) {
            check_interrupt();
        } else {
            throw refuse("reading it failed");
        }
    }
}

FileSet::FileSet() = default;
FileSet::~FileSet() = default;

void FileSet::add(const fs::path &path, std::span<const std::string_view> pieces) {
    auto file = pending(path);
    for (const std::string_view piece : pieces)
        file->write(piece);
    file->finish();
    files_.push_back(std::move(file));
}

std::unique_ptr<PendingFile> FileSet::pending(const fs::path &path) {
    if (takes_bytes(path)) return std::make_unique<PendingFile>(path, "", "");
    const fs::path place = behind_links(path);
    const fs::path parent = place.has_parent_path() ? place.parent_path() : ".";
    auto folder = folders_.find(parent);
    if (folder == folders_.end()) {
        const auto failed = [&](int error) { throw cannot("create it", path, error); };
        folder = folders_.emplace(parent, std::make_unique<LockedFolder>(parent, failed)).first;
    }
    return std::make_unique<PendingFile>(path, place, folder->second->path() / std::to_string(files_.size()));
}

void FileSet::commit() {
    check_interrupt();
    // What may still fail comes first.
    std::stable_partition(files_.begin(), files_.end(), [](const auto &file) { return file->straight(); });
    for (const std::unique_ptr<PendingFile> &file : files_)
        file->commit();
    files_.clear();
}

void write_atomically(const fs::path &path, std::string_view text) {
    FileSet files;
    files.add(path, std::span<const std::string_view>(&text, 1));
    files.commit();
}

void put_in_place(const fs::path &from, const fs::path &to) {
    std::error_code none;
    if (fs::is_symlink(to, none) || takes_bytes(to)) {
        write_atomically(to, read_text(from));
        fs::remove(from, none);
    } else if (rename(from.c_str(), to.c_str()) != 0) {
        throw cannot("put it in place", to, errno);
    }
}

fs::path temporary_folder() {
    const char *given = std::getenv("TMPDIR");
    const fs::path folder = given && *given ? given : "/tmp";
    std::error_code none;
    if (fs::is_directory(folder, none)) return folder;
    throw EnvironmentError(fmt::format("TMPDIR is {}; it must be a folder", folder.string()));
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
            remove_made();
            throw cannot("make this output folder", *folder, reason);
        }
        made_.push_back(*folder);
    }
    if (!fs::is_directory(parent_)) {
        throw EnvironmentError(fmt::format("{}: is a file; the output folder must be a folder", parent_.string()));
    }
    folder_ = std::make_unique<LockedFolder>(parent_, [&](int reason) {
        remove_made();
        throw cannot("write into this output folder", parent_, reason);
    });
}

const fs::path &ScratchFolder::path() const {
    return folder_->path();
}

void ScratchFolder::remove_made() {
    std::error_code ignored;
    for (auto folder = made_.rbegin(); folder != made_.rend(); ++folder)
        fs::remove(*folder, ignored);
}

ScratchFolder::~ScratchFolder() {
    folder_.reset();
    remove_made();
}

void ScratchFolder::publish(const std::vector<std::string> &names) {
    check_interrupt();
    for (const std::string &name : names) {
        put_in_place(path() / name, parent_ / name);
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
