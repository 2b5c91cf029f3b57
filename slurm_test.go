package gbatch

import (
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSlurm runs the job array of docs/shards.md on a cluster of one node, in a folder
// of its own. Slurm's daemons need root here.
func TestSlurm(t *testing.T) {
	for _, tool := range []string{"sbatch", "slurmctld", "slurmd", "munged"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	if os.Geteuid() != 0 {
		t.Skip("Slurm's daemons need root")
	}
	d := newDesk(t, 0)
	d.slurm(t)
	blocks, _ := divide(pages(t)["docs/shards.md"])
	for _, b := range blocks {
		switch {
		case strings.HasPrefix(b.text, "cat > embed-shard"):
			d.run(t, programs["sh"](b.text))
		case b.language == "slurm":
			if err := os.WriteFile(filepath.Join(d.dir, "embed.sbatch"), []byte(b.text), 0o700); err != nil {
				t.Fatal(err)
			}
			d.run(t, exec.Command("sbatch", "--wait", "embed.sbatch"))
		}
	}
	d.shards(t)
	d.run(t, exec.Command("sbatch", "--wait", "embed.sbatch"))
	d.shards(t)
	// The code of a shard is that of its job.
	cmd := exec.Command("sbatch", "--wait", "--array=0-1", "embed.sbatch")
	cmd.Dir, cmd.Env = d.dir, d.env
	if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("with another count of shards the code is %d: %s", cmd.ProcessState.ExitCode(), out)
	}
}

// shards checks that the five documents are in four shards, and were paid for once.
func (d *desk) shards(t *testing.T) {
	t.Helper()
	var all []string
	for n := range 4 {
		all = append(all, fmt.Sprintf("SELECT chunk_id, embedding, %d AS shard FROM s%[1]d.embeddings", n))
	}
	statements := []string{"sql", ""}
	for n := range 4 {
		statements = append(statements, fmt.Sprintf("ATTACH 'shard-%d.duckdb' AS s%[1]d", n))
	}
	statements = append(statements, "SELECT count(*) || ' ' || count(DISTINCT chunk_id) || ' ' || count(embedding) || ' ' || (count(DISTINCT shard) > 1) FROM ("+strings.Join(all, " UNION ALL ")+")")
	if got := strings.TrimSpace(d.run(t, exec.Command(statements[0], statements[1:]...))); got != "5 5 5 true" {
		t.Errorf("the shards hold %q", got)
	}
	d.paidOnce(t, 5)
}

// slurm starts a cluster for the desk.
func (d *desk) slurm(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "slurm") // a short path, for the socket
	if err != nil {
		t.Fatal(err)
	}
	key := make([]byte, 1024)
	rand.Read(key)
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	name, _, _ = strings.Cut(name, ".")
	conf := fmt.Sprintf(`ClusterName=test
SlurmctldHost=%[2]s(127.0.0.1)
SlurmctldPort=%[3]d
SlurmdPort=%[4]d
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=%[1]s/munge.sock
CredType=cred/munge
StateSaveLocation=%[1]s/state
SlurmdSpoolDir=%[1]s/spool
SlurmctldPidFile=%[1]s/slurmctld.pid
SlurmdPidFile=%[1]s/slurmd.pid
SlurmctldLogFile=%[1]s/slurmctld.log
SlurmdLogFile=%[1]s/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=%[2]s NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
`, dir, name, freePort(t), freePort(t))
	for file, data := range map[string][]byte{"munge.key": key, "slurm.conf": []byte(conf), "state/keep": nil, "spool/keep": nil} {
		path := filepath.Join(dir, file)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.env = append(d.env, "SLURM_CONF="+filepath.Join(dir, "slurm.conf"))
	// The daemons stay in the foreground, as children of the test.
	var daemons []*exec.Cmd
	t.Cleanup(func() {
		for i := len(daemons) - 1; i >= 0; i-- {
			daemons[i].Process.Signal(syscall.SIGTERM)
			daemons[i].Wait()
		}
		if t.Failed() {
			for _, log := range []string{"slurmctld.log", "slurmd.log"} {
				text, _ := os.ReadFile(filepath.Join(dir, log))
				t.Logf("%s\n%s", log, text)
			}
		}
		os.RemoveAll(dir)
	})
	for _, args := range [][]string{
		{"munged", "--foreground", "--force", "--socket=" + dir + "/munge.sock", "--key-file=" + dir + "/munge.key", "--pid-file=" + dir + "/munged.pid", "--log-file=" + dir + "/munged.log", "--seed-file=" + dir + "/munged.seed"},
		{"slurmctld", "-D", "-f", dir + "/slurm.conf"},
		{"slurmd", "-D", "-f", dir + "/slurm.conf"},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env, cmd.Dir = d.env, dir
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		daemons = append(daemons, cmd)
		if args[0] == "munged" {
			wait(t, "munged", func() bool { _, err := os.Stat(dir + "/munge.sock"); return err == nil })
		}
	}
	wait(t, "an idle node", func() bool {
		cmd := exec.Command("sinfo", "--noheader", "--format=%T")
		cmd.Env = d.env
		out, _ := cmd.Output()
		return strings.TrimSpace(string(out)) == "idle"
	})
}

// wait waits up to a minute until a condition holds.
func wait(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("there is no %s after a minute", what)
		}
	}
}

// freePort returns a port that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
