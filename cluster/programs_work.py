"""What programs do in a mount: scripts that fail where anything is not as on a local filesystem.

Each runs in an empty directory of the mount. `$OUTSIDE` is a directory outside it, with what `prepare` put there.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cluster import trees

SOURCES = 120
"""Files of C in the project that is made where none is given."""
TREE_SEED = 1


@dataclass(frozen=True, slots=True)
class Work:
    name: str
    needs: tuple[str, ...]
    script: str


GIT = """
git clone -q "$OUTSIDE/history" clone
git -C clone fsck --strict --full
test -z "$(git -C clone status --porcelain)"
git clone -q --no-local clone again
cd again
git config user.name n; git config user.email e
git checkout -q -b other; echo more >> 1/1; git commit -qam more; git mv 2 moved; git commit -qm moved
git checkout -q -; echo less > 3/3; git commit -qam less; git merge -q -m both other
git gc -q --prune=now; git fsck --strict --full
test -z "$(git status --porcelain)" && test ! -e 2 && grep -q more 1/1 && test -e moved/1
git stash list; echo x >> 4/4; git stash -q; test -z "$(git status --porcelain)"; git stash pop -q; grep -q x 4/4
git push -q ../clone HEAD:refs/heads/pushed; git -C ../clone fsck --strict
test ! -e "$OUTSIDE/repository" || { git clone -q "$OUTSIDE/repository" ../given; git -C ../given fsck --full; }
"""

COMPILER = """
tar xf "$OUTSIDE/project.tar"
diff -r --no-dereference "$OUTSIDE/project" .
test ! -x configure || ./configure > /dev/null
make -j2 > make.log 2>&1 || { tail make.log; exit 1; }
test ! -e answer || { test "$(make -j2 | grep -c cc)" = 0; test "$(./program)" = "$(cat answer)"; }
mkdir ../built ../built/it; tar cf ../built/it.tar .; tar xf ../built/it.tar -C ../built/it
diff -r --no-dereference . ../built/it
make clean > make.log 2>&1; make -j2 > make.log 2>&1 || { tail make.log; exit 1; }
rm -r ../built
"""

SQLITE = r"""
cat > work.py <<'PYTHON'
import sqlite3, sys, threading
mode, which = sys.argv[1], int(sys.argv[2])
base = sqlite3.connect(mode + '.db', timeout=600)
for number in range(40):
    with base:
        base.execute('begin immediate')
        base.executemany('insert into t values (?, ?, ?)', [(which, number * 10 + n, bytes(700)) for n in range(10)])
    if number % 10 == 9:
        try:
            with base:
                base.execute('begin immediate')
                base.execute('delete from t where who = ?', (which,))
                raise KeyError
        except KeyError:
            pass
    assert base.execute('select count(*) from t where who = ?', (which,)).fetchone() == (number * 10 + 10,)
base.close()
PYTHON
cat > check.py <<'PYTHON'
import sqlite3, sys
base = sqlite3.connect(sys.argv[1] + '.db')
assert base.execute('pragma journal_mode').fetchone() == (sys.argv[1],)
assert base.execute('pragma integrity_check').fetchone() == ('ok',)
assert base.execute('select who, count(*) from t group by who').fetchall() == [(0, 400), (1, 400)]
with base:
    base.execute('delete from t where number % 3 = 0')
base.execute('vacuum')
assert base.execute('pragma integrity_check').fetchone() == ('ok',)
base.close()
PYTHON
for mode in delete wal; do
    "$PYTHON" -c "
import sqlite3, sys
base = sqlite3.connect('$mode.db')
assert base.execute('pragma journal_mode=$mode').fetchone() == ('$mode',)
base.execute('create table t (who int, number int, data blob, primary key (who, number))')
base.commit(); base.close()"
    "$PYTHON" work.py $mode 0 & one=$!
    "$PYTHON" work.py $mode 1
    wait $one
    "$PYTHON" check.py $mode
done
test "$(ls)" = "$(printf 'check.py\ndelete.db\nwal.db\nwork.py')"
"""

RSYNC = """
rsync -aHAX --numeric-ids "$OUTSIDE/tree/" tree/
test -z "$(rsync -aHAXcn --delete --itemize-changes "$OUTSIDE/tree/" tree/)"
rm -r tree/small/d3; mv tree/small/d4 tree/moved; echo changed >> tree/small/d5/e2/f1; touch -d @1 tree/small/d6/e0/f2
rsync -aHAX --numeric-ids --delete "$OUTSIDE/tree/" tree/
test -z "$(rsync -aHAXcn --delete --itemize-changes "$OUTSIDE/tree/" tree/)"
head -c 5000000 /dev/urandom > big; cp big ../big.copy
printf new | dd of=../big.copy bs=1 seek=2500000 conv=notrunc status=none
rsync -a --inplace --no-whole-file -I ../big.copy big; cmp big ../big.copy; rm ../big.copy
"""

EDITORS = """
for n in $(seq 20); do seq 100 > f$n; done
ln f1 second; chmod 640 f2
sed -i 's/^50$/fifty/' f*; grep -q 50 second; ! grep -q fifty second; test $(grep -lx fifty f* | wc -l) = 20
for copy in yes no auto; do
    for n in $(seq 5); do
        vim -Nu NONE -es --cmd "set backup backupcopy=$copy swapfile directory=. undofile undodir=. updatecount=1" \
            -c '%s/fifty/50/' -c wq f$n < /dev/null
        grep -qx 50 f$n; ! grep -q fifty f$n
        sed -i 's/^50$/fifty/' f$n
    done
done
test $(stat -c %a f2) = 640; test -z "$(ls -A | grep -e '[.]sw.$' -e '^4913$')"
vim -Nu NONE -es -c '%s/fifty/50/' -c wq f7 < /dev/null; test "$(cat f7)" = "$(seq 100)"; perl -pi -e 's/^50$/5O/' f7
grep -qx 5O f7
"""

PIP = """
"$PYTHON" -m venv venv
./venv/bin/python -m pip install --disable-pip-version-check --quiet $PACKAGE
./venv/bin/python -m pip check
./venv/bin/python -c "import importlib.metadata as m; print(len(m.files('$PACKAGE')))"
./venv/bin/python -m pip uninstall --disable-pip-version-check --quiet -y $PACKAGE
./venv/bin/python -m pip install --disable-pip-version-check --quiet $PACKAGE
"""

WORKS = (
    Work("git", ("git",), GIT),
    Work("compiler", ("tar", "make", "cc"), COMPILER),
    Work("sqlite", (), SQLITE),
    Work("rsync", ("rsync",), RSYNC),
    Work("editors", ("vim", "sed", "perl"), EDITORS),
    Work("pip", (), PIP),
)
NAMES = tuple(work.name for work in WORKS)


def missing(work: Work) -> list[str]:
    return [tool for tool in work.needs if shutil.which(tool) is None]


def prepare(outside: Path, repository: Path | None, project: Path | None) -> None:
    """What the scripts begin with: a repository's history, a tar of a C project, a tree."""
    outside.mkdir()
    trees.build(outside / "tree", "small", TREE_SEED)
    if shutil.which("git"):
        _history(outside / "history")
    if repository is not None:
        (outside / "repository").symlink_to(repository.resolve())
    if project is not None:
        (outside / "project").mkdir()
        subprocess.run(["tar", "xf", str(project), "-C", str(outside / "project")], check=True)
    else:
        _project(outside / "project")
    subprocess.run(["tar", "cf", str(outside / "project.tar"), "-C", str(outside / "project"), "."], check=True)


def environment(outside: Path, package: str) -> dict[str, str]:
    return {"OUTSIDE": str(outside), "PYTHON": sys.executable, "PACKAGE": package, "PYTHONPATH": ""}


def _history(place: Path) -> None:
    """A repository with some commits of some files."""
    git = ["git", "-C", str(place), "-c", "user.name=n", "-c", "user.email=e"]
    subprocess.run(["git", "init", "-q", str(place)], check=True)
    for commit in range(1, 9):
        for directory in range(1, 9):
            (place / str(directory)).mkdir(exist_ok=True)
            for file in range(1, 6):
                (place / str(directory) / str(file)).write_text(f"{commit} {directory} {file}\n" * commit * 20)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", f"number {commit}"], check=True)


def _project(place: Path) -> None:
    """Some files of C with a header, an archive, a program, and what it says."""
    (place / "source").mkdir(parents=True)
    numbers = range(SOURCES)
    (place / "source" / "all.h").write_text("".join(f"int f{n}(int);\n" for n in numbers))
    for n in numbers:
        text = f'#include <stdio.h>\n#include "all.h"\nint f{n}(int x) {{ return x + {n}; }}\n'
        (place / "source" / f"f{n}.c").write_text(text)
    calls = "".join(f"  x = f{n}(x);\n" for n in numbers)
    main = f'#include <stdio.h>\n#include "all.h"\nint main(void) {{\n  int x = 0;\n{calls}  printf("%d\\n", x);\n}}\n'
    (place / "source" / "main.c").write_text(main)
    (place / "answer").write_text(f"{sum(numbers)}\n")
    (place / "Makefile").write_text(
        "OBJECTS := $(patsubst %.c,%.o,$(filter-out source/main.c,$(wildcard source/*.c)))\n"
        "program: source/main.o all.a\n\tcc -o $@ $^\n"
        "all.a: $(OBJECTS)\n\trm -f $@\n\tar rcs $@ $^\n"
        "%.o: %.c source/all.h\n\tcc -O1 -c -o $@ $<\n"
        "clean:\n\trm -f program all.a source/*.o\n"
    )
