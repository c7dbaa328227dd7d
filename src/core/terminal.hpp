#pragma once

#include <string>
#include <vector>

// The only place that prints. Who calls decides which rank speaks (rank 0, as a rule). A line is one
// write, so lines of several processes never mix.
namespace longlora {

void say(const std::string& text);       // a line, or several, on stdout
void warn(const std::string& text);      // "longlora_hpc: warning: ..." on stderr
void complain(const std::string& text);  // "longlora_hpc: ..." on stderr

// A person looks at stdout. Open MPI gives every process a pseudo-terminal, so what counts under it
// is mpirun's own stdout.
bool is_terminal();
int terminal_width();
// A line that the next one replaces; for a terminal only. An empty one clears it.
void draw(const std::string& line);

// Aligned columns: those whose cells are all numbers to the right, others to the left.
class Table {
public:
    explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
    void add(std::vector<std::string> row);  // as many cells as the header
    std::string text() const;                // header, rule, rows; no newline at the end

private:
    std::vector<std::vector<std::string>> rows_;
};

}  // namespace longlora
