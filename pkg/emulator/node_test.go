package emulator

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// nodeDir is a folder with the scripts of testdata/node and the libraries that
// they import. It is removed by TestMain.
var nodeDir string

var installNode = sync.OnceValue(func() error {
	dir, err := os.MkdirTemp("", "emulator-node-")
	if err != nil {
		return err
	}
	nodeDir = dir
	if err := os.CopyFS(dir, os.DirFS(filepath.Join("testdata", "node"))); err != nil {
		return err
	}
	install := exec.Command("npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline", "--no-package-lock")
	install.Dir = dir
	return install.Run()
})

// node runs a script of testdata/node. It skips the test if there is no Node.js, or
// if the npm registry cannot be reached.
func node(t *testing.T, script string, env []string, args ...string) {
	t.Helper()
	if testing.Short() {
		t.Skip("installing the libraries takes long")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip("no " + program)
		}
	}
	if err := installNode(); err != nil {
		t.Skipf("npm install: %v", err)
	}
	cmd := exec.Command("node", append([]string{filepath.Join(nodeDir, script)}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.HasSuffix(out, []byte("ok\n")) {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
}

// Google's JavaScript library is a second client of the calls for objects.
func TestNodeStorage(t *testing.T) {
	node(t, "storage.mjs", nil, serve(t, Options{}).url)
}
