package gbatch

import (
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// postgres starts a server for psql, or skips the test if there is no server with
// pgvector.
func (d *desk) postgres(t *testing.T) {
	t.Helper()
	bin := ""
	if path, err := exec.LookPath("initdb"); err == nil {
		bin = filepath.Dir(path)
	} else if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(found) > 0 { // as Debian has it
		bin = filepath.Dir(found[len(found)-1])
	}
	if _, err := exec.LookPath("psql"); bin == "" || err != nil {
		t.Skip("this page needs PostgreSQL, which is not installed (Debian: postgresql)")
	}
	dir, err := os.MkdirTemp("/tmp", "pg") // the name of a socket must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	var owner *syscall.SysProcAttr
	if os.Getuid() == 0 { // the server refuses to run as root
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("this page needs a user postgres: ", err)
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		owner = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	}
	server := func(name string, args ...string) {
		cmd := exec.Command(filepath.Join(bin, name), args...)
		cmd.Dir, cmd.SysProcAttr = dir, owner
		if err := cmd.Run(); err != nil { // its output would keep the server's pipe open
			log, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("%q: %v\n%s", cmd.Args, err, log)
		}
	}
	server("initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	server("pg_ctl", "-D", "data", "-l", "log", "-o", "-h '' -k "+dir, "-w", "start")
	t.Cleanup(func() { server("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop") })
	// Otherwise a statement that fails is only a message.
	if err := os.WriteFile(filepath.Join(d.dir, "home/.psqlrc"), []byte("\\set ON_ERROR_STOP on\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d.env = append(d.env, "PGHOST="+dir, "PGUSER=postgres", "PGDATABASE=postgres")
	if d.psql(t, "SELECT count(*) FROM pg_available_extensions WHERE name = 'vector'") == "0" {
		t.Skip("this page needs pgvector for this PostgreSQL, which is not installed: see .ci/run")
	}
}

func (d *desk) psql(t *testing.T, query string) string {
	t.Helper()
	return strings.TrimSpace(d.run(t, exec.Command("psql", "-At", "-c", query)))
}

// checkPostgres: the vectors in PostgreSQL are those in DuckDB, and the edited row
// has another one than before.
func checkPostgres(t *testing.T, d *desk) {
	d.sees(t, "READY 3", "SELECT embedding_status || ' ' || count(*) FROM chunk_status GROUP BY embedding_status")
	got := d.psql(t, "SELECT string_agg(id || ' ' || round((embedding <-> (SELECT embedding FROM doc_vectors WHERE id = 1))::numeric, 3), ', ' ORDER BY id) FROM doc_vectors")
	d.sees(t, got, `SELECT string_agg(id || ' ' || printf('%.3f', array_distance(embedding, (SELECT embedding FROM chunk_status WHERE id = '1'))), ', ' ORDER BY id) FROM chunk_status`)
	d.paidOnce(t, 4)
}
