package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What a mutation changes is in the source, once: a safeguard that was
// rewritten must not leave its mutation behind.
func TestMutations(t *testing.T) {
	for name, changes := range mutations {
		for _, c := range changes {
			source, err := os.ReadFile(filepath.Join("../..", c.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(source), c.text); n != 1 {
				t.Errorf("%s: %s has the text to change %d times: %q", name, c.file, n, c.text)
			}
		}
	}
}
