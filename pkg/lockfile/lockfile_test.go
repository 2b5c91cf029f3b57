package lockfile

import (
	"os"
	"path/filepath"
	"testing"
)

func TestTry(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	first, second := open(), open()
	for _, step := range []struct {
		what string
		f    *os.File
		do   func()
		held bool
	}{
		{"a free file", first, func() {}, true},
		{"a file that is held", second, func() {}, false},
		{"a file that was let go", second, func() { first.Close() }, true},
		{"a file without its name", second, func() { os.Remove(path) }, false},
		{"a file whose name leads to another", second, func() { open() }, false},
	} {
		step.do()
		if held, err := Try(step.f); held != step.held || err != nil {
			t.Errorf("%s: held %v, %v", step.what, held, err)
		}
	}
	if err := SyncDir(filepath.Dir(path)); err != nil {
		t.Error(err)
	}
	if err := SyncDir(path + "/none"); err == nil {
		t.Error("synced a folder that is not there")
	}
}

// A link in a folder that is a link itself counts from the folder's own place.
func TestTarget(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.MkdirAll(at("b/c"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"a": "b/c", "b/c/link": "../x", "b/c/loop": "loop"} {
		if err := os.Symlink(to, at(name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, there := range []bool{false, true} {
		if there {
			if err := os.WriteFile(at("b/x"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for path, want := range map[string]string{"a/link": "b/x", "a/new": "b/c/new", "b/x": "b/x", "none/new": "none/new", "a/loop": "b/c/loop"} {
			if got := Target(at(path)); got != at(want) {
				t.Errorf("%s, b/x is there: %t: %s instead of %s", path, there, got, at(want))
			}
		}
	}
}
