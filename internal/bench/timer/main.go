// Timer runs a command and writes its measurements to file descriptor 3, as one
// line of JSON. It exists because Linux counts the peak memory of a child from
// that of the process that starts it: so a small process must start the command.
//
//	timer -cpus 0,1 command argument…
//	timer -cpus 0 -exec command argument…    becomes the command
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

func main() {
	cpus := flag.String("cpus", "", "run on these processors only")
	replace := flag.Bool("exec", false, "become the command")
	flag.Parse()
	if err := run(*cpus, *replace, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "timer: error:", err)
		os.Exit(125)
	}
}

func run(cpus string, replace bool, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no command given")
	}
	runtime.LockOSThread() // a child inherits the settings of the thread that starts it
	if cpus != "" {
		var mask [16]uint64
		for word := range strings.SplitSeq(cpus, ",") {
			cpu, err := strconv.Atoi(word)
			if err != nil || cpu < 0 || cpu >= 64*len(mask) {
				return fmt.Errorf("bad -cpus %s", cpus)
			}
			mask[cpu/64] |= 1 << (cpu % 64)
		}
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, 0, unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))); errno != 0 {
			return errno
		}
	}
	path, err := exec.LookPath(args[0])
	if err != nil {
		return err
	}
	if replace {
		return syscall.Exec(path, args, os.Environ())
	}
	begun := time.Now()
	p, err := os.StartProcess(path, args, &os.ProcAttr{Files: []*os.File{os.Stdin, os.Stdout, os.Stderr}})
	if err != nil {
		return err
	}
	// With these copies open, a pipe that the command has closed would stay open.
	os.Stdin.Close()
	os.Stdout.Close()
	anon := make(chan int64)
	done := make(chan struct{})
	go func() { anon <- sample(p.Pid, done) }()
	state, err := p.Wait()
	close(done)
	wall := time.Since(begun)
	if err != nil {
		return err
	}
	usage := state.SysUsage().(*syscall.Rusage)
	return json.NewEncoder(os.NewFile(3, "report")).Encode(map[string]int64{
		"Wall": int64(wall), "CPU": int64(state.UserTime() + state.SystemTime()),
		"RSS": usage.Maxrss << 10, "Own": <-anon, "Code": int64(state.ExitCode()),
	})
}

// sample returns the most memory that a process had without the pages of files,
// such as those of its program, which all its processes share. The operating system
// keeps no peak of that, so it is read all the time.
func sample(pid int, done <-chan struct{}) (most int64) {
	for pause := time.Millisecond; ; pause = min(2*pause, 16*time.Millisecond) {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid)) // there is none after the process's end
		if _, rest, ok := strings.Cut(string(status), "\nRssAnon:"); ok {
			var kilobytes int64
			fmt.Sscan(rest, &kilobytes)
			most = max(most, kilobytes<<10)
		}
		select {
		case <-done:
			return most
		case <-time.After(pause):
		}
	}
}
