package ledger

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"gbatch/pkg/exit"
)

// home sets the environment to an empty state folder.
func home(t *testing.T) (dir string) {
	t.Helper()
	state := t.TempDir()
	t.Setenv("XDG_STATE_HOME", state)
	return filepath.Join(state, "gbatch")
}

func open(t *testing.T) *Files {
	t.Helper()
	l, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func hold(t *testing.T, l *Files, name string) Entry {
	t.Helper()
	e, err := l.Try(name)
	if err != nil || e == nil {
		t.Fatalf("%s is not held: %v", name, err)
	}
	return e
}

func TestName(t *testing.T) {
	const hash = "0123456789abcdef"
	for _, batch := range []string{"b01", "b-1", "b01-" + hash, "gbatch-b", ""} {
		if name := Name(batch, hash); Batch(name) != batch {
			t.Errorf("%s is of batch %q", name, Batch(name))
		}
	}
	for _, name := range []string{"gbatch-b01", "gbatch-b01-0123456789abcdeg", "b01-" + hash, "gbatch-b01-" + hash + "-c3", ""} {
		if Batch(name) != "" {
			t.Errorf("%s is of batch %q", name, Batch(name))
		}
	}
}

func TestEntry(t *testing.T) {
	home(t)
	l := open(t)
	const name = "gbatch-b1-0123456789abcdef"
	e := hold(t, l, name)
	if e.Mark() != (Mark{}) {
		t.Errorf("a new entry has the mark %v", e.Mark())
	}
	if other, err := l.Try(name); other != nil || err != nil {
		t.Errorf("the entry is held twice: %v", err)
	}
	if _, err := l.Claim(t.Context(), name, time.Millisecond); exit.Code(err) != exit.TryLater {
		t.Errorf("a claim of a held entry ends with %v", err)
	}
	for _, m := range []Mark{{Name: name, Batch: "b1", Phase: Create, Input: "files/a-long-name"}, {Name: name, Batch: "b1", Phase: Created, Job: "j"}} {
		if err := e.Set(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		// An entry can be read while it is held.
		got, err := l.Read(name)
		if err != nil || got.Phase != m.Phase || got.Job != m.Job || got.PID != os.Getpid() || time.Since(got.Time) > time.Minute {
			t.Errorf("read %v, %v", got, err)
		}
	}
	e.Close()
	e = hold(t, l, name)
	if e.Mark().Job != "j" {
		t.Errorf("the next one finds %v", e.Mark())
	}
	e.Forget()
	e.Close()
	if m, err := l.Read(name); m != (Mark{}) || err != nil || len(l.Names()) != 0 {
		t.Errorf("%v is left: %v, %v", m, l.Names(), err)
	}
}

func TestNoPlace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("XDG_STATE_HOME", filepath.Join(file, "below"))
	if _, err := Open(); err == nil || !strings.Contains(err.Error(), "set XDG_STATE_HOME to a folder that you can write to") {
		t.Error(err)
	}
}

// An intent that cannot be read may stand for a create. An empty file was never
// written to.
func TestDamaged(t *testing.T) {
	dir := home(t)
	l := open(t)
	for text, want := range map[string]string{
		"": "", "{": Create, "null\n": Create, `{"phase":"another"}`: Create, "\x00\x00": Create,
		`{"phase":"created","job":"j"}` + "\nrest of a longer line": Created,
	} {
		if err := os.WriteFile(filepath.Join(dir, "x.json"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if m, err := l.Read("x"); err != nil || m.Phase != want {
			t.Errorf("%q is read as %v, %v", text, m, err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "x.json"), filepath.Join(dir, "link.json")); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Read("link"); err == nil {
		t.Error("a link is followed")
	}
}

// Look creates nothing, removes nothing, and refuses a folder that others can
// write to.
func TestLook(t *testing.T) {
	dir := home(t)
	look := func() *Files {
		t.Helper()
		l, err := Look()
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if l := look(); len(l.Names()) != 0 {
		t.Errorf("no folder has the entries %v", l.Names())
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("a look has made the folder: %v", err)
	}
	open(t)
	path := filepath.Join(dir, "old.json")
	if err := os.WriteFile(path, []byte(`{"phase":"created"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-Life - time.Hour)
	if err := os.Chtimes(path, old, old); err != nil {
		t.Fatal(err)
	}
	if names := look().Names(); !slices.Equal(names, []string{"old"}) {
		t.Errorf("the entries are %v", names)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := Look(); err == nil {
		t.Error("a folder that others can write to is trusted")
	}
}

// Old receipts are removed. An entry that may stand for a create never is.
func TestPruning(t *testing.T) {
	dir := home(t)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := Look()
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-Life - time.Hour)
	for name, phase := range map[string]string{"old-created": Created, "old-upload": Upload, "old-create": Create, "new-created": Created, "locked": Created} {
		line, err := json.Marshal(Mark{Phase: phase})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(l.path(name), line, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "locked" {
			defer hold(t, l, name).Close()
		}
		if name != "new-created" {
			if err := os.Chtimes(l.path(name), old, old); err != nil {
				t.Fatal(err)
			}
		}
	}
	if left := open(t).Names(); !slices.Equal(left, []string{"locked", "new-created", "old-create"}) {
		t.Errorf("left %v", left)
	}
}
