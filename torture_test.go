package gbatch

import (
	"os"
	"os/exec"
	"testing"
)

// TestTorture is the short form of make torture, on the commands in the test
// binary.
func TestTorture(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	cmd := exec.Command("go", "run", "./internal/torture", "--short")
	cmd.Env = append(os.Environ(), "TMPDIR="+t.TempDir())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("\n%s", out)
}
