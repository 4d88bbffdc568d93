// Files: whole or not at all. Everything is written beside its place and renamed when complete.
#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qconv::tools {

/// Reads a whole file; throws InputError naming it.
std::string read_text(const std::filesystem::path &path);

class PendingFile;

/// Files that go into place together, once all of them are complete. Functions throw EnvironmentError (unwritable, full
/// disk); what commit() did not put in place goes away with this object.
class FileSet {
public:
    FileSet();
    ~FileSet();
    FileSet(const FileSet &) = delete;
    FileSet &operator=(const FileSet &) = delete;

    /// Writes the pieces one after the other.
    void add(const std::filesystem::path &path, std::span<const std::string_view> pieces);
    void commit();

private:
    std::vector<std::unique_ptr<PendingFile>> files_;
};

/// A FileSet of one.
void write_atomically(const std::filesystem::path &path, std::string_view text);

/// A folder for work in progress, made inside `parent` so that a later rename stays on one file system. It, and any
/// folder above it that had to be made, goes away with this object unless moved out by publish().
class ScratchFolder {
public:
    /// Makes `parent` and what is missing above it. Throws EnvironmentError if it cannot be made or written.
    explicit ScratchFolder(const std::filesystem::path &parent);
    ~ScratchFolder();
    ScratchFolder(const ScratchFolder &) = delete;
    ScratchFolder &operator=(const ScratchFolder &) = delete;

    const std::filesystem::path &path() const { return path_; }
    /// Moves the named files into `parent`, in order, and keeps `parent`.
    void publish(const std::vector<std::string> &names);

private:
    std::filesystem::path parent_, path_;
    std::vector<std::filesystem::path> made_; // folders above path_ made by us, outermost first
};

/// Catches SIGINT, SIGTERM and SIGHUP from now on, so that cleaning up happens; a second one ends the process at once.
/// Also has writes past a file-size limit fail with an error instead of a signal.
void catch_interrupts();
bool interrupted();
/// Throws Interrupted if a signal came.
void check_interrupt();

} // namespace qconv::tools
