#!/usr/bin/env python3
"""Checks the includes of src/ and kernels/: they point down, close no cycle, and third-party headers stay at home.

check_layers.py [ROOT]      exit 0 and a line of counts, or exit 1 and one line for each fault
"""
import re
import sys
from pathlib import Path

# folder -> the folders it may include (besides itself); CMakeLists.txt links in the same shape
ALLOWED = {
    "core": "",
    "sequence": "core",
    "comm": "core sequence",
    "kernels": "core sequence",
    "io": "core sequence comm",
    "options": "core sequence",
    "data": "core sequence comm io",
    "model": "core sequence comm kernels io",
    "plan": "core sequence comm kernels io model",
    "evaluate": "core sequence comm kernels io data model",
    "train": "core sequence comm kernels io options data model plan evaluate",
    "commands": "core sequence comm kernels io data model plan evaluate train options",
    "main": "core sequence comm kernels io data model plan evaluate train options commands",
}

# third-party header -> where it may be included (prefixes of paths)
HOMES = {
    r"mpi\.h": ["src/comm/", "src/io/hdf5"],
    r"(hdf5|H5\w+)\.h": ["src/io/"],
    r"boost/program_options.*": ["src/options/"],
    r"sentencepiece\w*\.h": ["src/data/"],
    r"pcre2\.h": ["src/data/"],
    r"nlohmann/.*": ["src/io/", "src/data/"],
    r"xxhash\.h": ["src/io/"],
    r"cblas\.h": ["kernels/cpu/"],
    r"hwy/.*": ["kernels/cpu/"],
    r"malloc\.h": ["src/core/heap"],
    r"cuda_runtime(_api)?\.h|cuda_bf16\.h|cuda\.h": ["src/core/", "src/comm/cuda/", "kernels/cuda/"],
    r"cublasLt\.h": ["kernels/cuda/"],
    r"nccl\.h": ["src/comm/cuda/"],
}
STANDARD = re.compile(r"[a-z_]+|sys/\w+\.h|(unistd|dlfcn|fcntl|dirent|sched|signal|pthread|immintrin|omp)\.h")
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)


def folder_of(path):
    """src/core/view.hpp -> core, kernels/cpu/rope.cpp -> kernels, src/main.cpp -> main"""
    parts = path.split("/")
    if parts[0] == "kernels":
        return "kernels"
    return parts[1] if len(parts) > 2 else "main"


def resolve(name, path, files):
    """The file of this repository that an include names; None if it is not one."""
    beside = str(Path(path).parent / name)
    return next((f for f in ("src/" + name, name, beside) if f in files), None)


def third_party_fault(name, path):
    for header, homes in HOMES.items():
        if re.fullmatch(header, name):
            at_home = any(path.startswith(home) for home in homes)
            return None if at_home else f"<{name}> belongs in {' or '.join(homes)}"
    return None if STANDARD.fullmatch(name) else f"<{name}> has no home: give it one in scripts/check_layers.py"


def find_cycle(graph):
    """One cycle of files as a list, or None."""
    done, trail = set(), []

    def visit(node):
        if node in trail:
            return trail[trail.index(node):] + [node]
        if node in done:
            return None
        trail.append(node)
        for following in graph[node]:
            if found := visit(following):
                return found
        done.add(trail.pop())
        return None

    return next((found for node in graph if (found := visit(node))), None)


def main():
    root = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent)
    files = sorted(
        str(path.relative_to(root))
        for top in ("src", "kernels")
        for path in (root / top).rglob("*")
        if path.suffix in (".hpp", ".cpp", ".cu", ".cuh")
    )
    known = set(files)
    faults, graph, edges = [], {}, 0
    for path in files:
        text = (root / path).read_text(encoding="utf-8")
        graph[path] = []
        here = folder_of(path)
        if here not in ALLOWED:
            faults.append(f"{path}: the folder {here} has no layer: give it one in scripts/check_layers.py")
            continue
        for match in INCLUDE.finditer(text):
            where = f"{path}:{text.count(chr(10), 0, match.start(2)) + 1}"
            name, target = match[2], resolve(match[2], path, known) if match[1] == '"' else None
            if target:
                edges += 1
                there = folder_of(target)
                if target != path:  # Highway's foreach_target includes a file once more on purpose
                    graph[path].append(target)
                if there != here and there not in ALLOWED[here].split():
                    faults.append(f"{where}: {here} may not include {there} ({name})")
            elif fault := third_party_fault(name, path):
                faults.append(f"{where}: {fault}")
    if cycle := find_cycle(graph):
        faults.append("cycle: " + " -> ".join(cycle))
    print("\n".join(faults) if faults else f"layers: {len(files)} files, {edges} includes, all point down")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
