package progress

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// A Block is the rows of all processes of a process group at the end of a
// terminal, one row for each process. The processes share a file. Whoever has
// news replaces its row in the file, and draws all rows again. What a process
// prints goes above the rows.
//
// The file is locked while it is read, drawn and written. Each process with a row
// also holds a lock on a byte of the file that stands for the process. The kernel
// releases that lock when the process ends, however it ends, and the next process
// that draws removes the row.
//
// A Block never makes a command fail or wait: if anything of it does not work,
// nothing is drawn. It uses no mode of the terminal that a killed process could
// leave behind.
type Block struct {
	tty  *os.File
	path string

	mu      sync.Mutex
	file    *os.File // kept open while this process has a row
	row     Row
	called  time.Time      // the last call of Show
	drawn   time.Time      // the last call that drew
	cont    chan os.Signal // SIGCONT; nil if this process has no row
	resumed int            // how often the group was continued after a stop
}

// A board is the content of the file.
type board struct {
	Drawn   int      `json:"drawn"` // lines of the block on the terminal; the cursor is below them
	Shown   []string `json:"shown"` // these lines
	Resumed int      `json:"resumed"`
	Rows    []entry  `json:"rows"`
}

type entry struct {
	PID int `json:"pid"`
	Row
}

// Terminal returns the block of the terminal that f is. It returns nil if f is no
// terminal, or one that cannot move its cursor.
func Terminal(f *os.File) *Block {
	info, err := f.Stat()
	if err != nil || !term.IsTerminal(int(f.Fd())) {
		return nil
	}
	if !Moves() {
		return nil
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("gbatch-progress-%d", os.Geteuid()))
	if run := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(run) {
		dir = filepath.Join(run, "gbatch-progress")
	}
	return &Block{tty: f, path: filepath.Join(dir, fmt.Sprintf("%x-%d", st.Rdev, unix.Getpgrp()))}
}

// Moves reports whether the cursor of the terminal can be moved.
func Moves() bool {
	kind := os.Getenv("TERM")
	return kind != "" && kind != "dumb"
}

// Size returns the size of the terminal f, and 80 times 24 if it is not known.
func Size(f interface{ Fd() uintptr }) (columns, rows int) {
	columns, rows, err := term.GetSize(int(f.Fd()))
	if err != nil || columns <= 0 || rows <= 0 {
		return 80, 24
	}
	return columns, rows
}

// Tick is how often Show is to be called.
const Tick = 100 * time.Millisecond

// Show replaces the row of this process and draws the block. If the row is the
// same as before, it draws only once a second: so rows of dead processes vanish.
func (b *Block) Show(r Row) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.called.IsZero() && time.Since(b.called) > 3*Tick {
		b.await()
	}
	b.called = time.Now()
	if r == b.row && time.Since(b.drawn) < time.Second && len(b.cont) == 0 {
		return
	}
	b.row, b.drawn = r, b.called
	b.update(nil, true, func(s *board) {
		pid := os.Getpid()
		i := slices.IndexFunc(s.Rows, func(e entry) bool { return e.PID == pid })
		if i < 0 {
			i = len(s.Rows)
			s.Rows = append(s.Rows, entry{PID: pid})
		}
		s.Rows[i].Row = r
	})
}

// Close removes the row of this process.
func (b *Block) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.cont == nil {
		return
	}
	pid := os.Getpid()
	b.update(nil, false, func(s *board) {
		s.Rows = slices.DeleteFunc(s.Rows, func(e entry) bool { return e.PID == pid })
	})
	signal.Stop(b.cont)
	b.cont = nil
	b.forget()
}

// Write prints whole lines above the block.
func (b *Block) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.update(p, false, nil) {
		return len(p), nil
	}
	return b.tty.Write(p)
}

// Stdout returns a writer for the standard output f. If f is the same terminal,
// what is written goes above the block.
func (b *Block) Stdout(f *os.File) io.Writer {
	out, err := f.Stat()
	tty, err2 := b.tty.Stat()
	if err != nil || err2 != nil || !os.SameFile(out, tty) {
		return f
	}
	return above{b, f}
}

type above struct {
	*Block
	f *os.File
}

// Fd tells that the output is a terminal.
func (a above) Fd() uintptr { return a.f.Fd() }

// update prints text above the block, changes the rows, and draws them. It
// returns false if it did nothing. If join is set, this process gets a row.
func (b *Block) update(text []byte, join bool, change func(*board)) bool {
	for tries := 3; ; tries-- {
		wrote, late := b.try(text, join, change)
		if !late || tries == 1 {
			return wrote
		}
		b.await()
	}
}

// await waits for SIGCONT if this process was probably stopped: the signal may come
// later than the process goes on.
func (b *Block) await() {
	for end := time.Now().Add(Tick); len(b.cont) == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
}

// try is one attempt of update. late says that nothing was drawn, because this
// process may have been stopped in the attempt: then the shell has the cursor.
func (b *Block) try(text []byte, join bool, change func(*board)) (wrote, late bool) {
	if !b.lock(join) {
		return false, false
	}
	defer b.unlock()
	s := b.read()
	s.Rows = slices.DeleteFunc(s.Rows, func(e entry) bool { return !b.alive(e.PID) })
	if len(s.Rows) == 0 {
		s.Drawn = 0 // what a dead group drew is not at the cursor
	}
	if join && b.cont == nil {
		b.cont, b.resumed = make(chan os.Signal, 8), s.Resumed
		signal.Notify(b.cont, syscall.SIGCONT)
	}
	began := time.Now()
	for len(b.cont) > 0 {
		<-b.cont
		b.resumed++
	}
	if b.resumed > s.Resumed { // the shell has printed lines in the meantime
		s.Resumed, s.Drawn = b.resumed, 0
	}
	if change != nil {
		change(&s)
	}
	// The order of the processes in the pipe: a shell starts them from left to
	// right, and the first one usually leads the group. Process ids may wrap.
	group := unix.Getpgrp()
	slices.SortFunc(s.Rows, func(x, y entry) int {
		return int(int64(uint32(x.PID-group)) - int64(uint32(y.PID-group)))
	})
	wrote, late = b.draw(&s, text, began.Add(Tick/5))
	b.write(&s)
	return wrote, late
}

// draw writes text and the rows in one call, so that a kill leaves the terminal
// in order. In the background it draws nothing, because the terminal belongs to
// another process group, and after end. It reports whether text was written.
func (b *Block) draw(s *board, text []byte, end time.Time) (wrote, late bool) {
	if front, err := unix.IoctlGetInt(int(b.tty.Fd()), unix.TIOCGPGRP); err != nil || front != unix.Getpgrp() {
		s.Drawn = 0
		return false, false
	}
	columns, height := Size(b.tty)
	rows := make([]Row, len(s.Rows))
	for i, e := range s.Rows {
		rows[i] = e.Row
	}
	shown := lines(rows, columns)
	shown = shown[max(len(shown)-(height-1), 0):]
	if len(text) > 0 && text[len(text)-1] != '\n' {
		shown = nil // the rows would begin within a line
	}
	if len(text) == 0 && s.Drawn == len(shown) && slices.Equal(s.Shown, shown) {
		return true, false
	}
	var out strings.Builder
	if s.Drawn > 0 {
		fmt.Fprintf(&out, "\r\x1b[%dA", s.Drawn)
	}
	if len(text) > 0 {
		if s.Drawn > 0 {
			out.WriteString("\x1b[J")
		}
		out.Write(text)
	}
	for _, l := range shown {
		out.WriteString("\r" + l + "\x1b[K\r\n")
	}
	if s.Drawn > len(shown) && len(text) == 0 {
		out.WriteString("\x1b[J")
	}
	if time.Now().After(end) {
		return false, true
	}
	s.Drawn, s.Shown = len(shown), shown
	_, err := b.tty.WriteString(out.String())
	return err == nil, false
}

// patience bounds the wait for the lock. A process that was stopped may hold it.
const patience = 100 * time.Millisecond

// lock opens the file, if necessary, and locks it. If join is set, it creates the
// file, and the lock of this process. It returns false if there is no file, or if
// it cannot be locked.
func (b *Block) lock(join bool) bool {
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if b.file == nil && b.open(join) != nil {
			return false
		}
		switch err := b.set(unix.F_WRLCK, 0); {
		case err == nil && b.named():
			if join && b.set(unix.F_WRLCK, os.Getpid()) != nil {
				b.forget()
				return false
			}
			return true
		case err == nil: // the last process of another pipe has removed the file
			b.forget()
		case err != syscall.EAGAIN && err != syscall.EACCES:
			b.forget()
			return false
		}
		if time.Now().After(end) {
			if b.cont == nil {
				b.forget()
			}
			return false
		}
	}
}

// unlock releases the lock. It closes the file if this process has no row.
func (b *Block) unlock() {
	if b.file == nil {
		return
	}
	b.set(unix.F_UNLCK, 0)
	if b.cont == nil {
		b.forget()
	}
}

func (b *Block) forget() {
	if b.file != nil {
		b.file.Close()
		b.file = nil
	}
}

// set sets the lock of this process on a byte of the file. Byte 0 is for the file,
// the byte with the number of a process for that process.
func (b *Block) set(kind int16, at int) error {
	return unix.FcntlFlock(b.file.Fd(), unix.F_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: int64(at), Len: 1})
}

// alive reports whether a process holds the lock that stands for it.
func (b *Block) alive(pid int) bool {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: int64(pid), Len: 1}
	return pid == os.Getpid() || unix.FcntlFlock(b.file.Fd(), unix.F_GETLK, &l) == nil && l.Type != unix.F_UNLCK
}

// open opens the file. Its folder must belong to this user alone.
func (b *Block) open(create bool) (err error) {
	flags := os.O_RDWR | syscall.O_NOFOLLOW
	dir := filepath.Dir(b.path)
	if create {
		flags |= os.O_CREATE
		if err := os.Mkdir(dir, 0o700); err == nil || !errors.Is(err, fs.ErrExist) {
			if err != nil {
				return err
			}
		} else {
			b.prune(dir)
		}
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || int(st.Uid) != os.Geteuid() || info.Mode().Perm()&0o077 != 0 {
		return fs.ErrPermission
	}
	b.file, err = os.OpenFile(b.path, flags, 0o600)
	return err
}

// prune removes the files of groups that were killed. A file in use is written at
// least once a second.
func (b *Block) prune(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && time.Since(info.ModTime()) > 24*time.Hour {
			os.Remove(filepath.Join(dir, e.Name()))
		}
	}
}

// named reports whether the file still has its name.
func (b *Block) named() bool {
	opened, err := b.file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Lstat(b.path)
	return err == nil && os.SameFile(opened, named)
}

// read returns the content of the file. A file that a killed process has written
// only in part is empty.
func (b *Block) read() (s board) {
	data, err := io.ReadAll(io.NewSectionReader(b.file, 0, 1<<16))
	if err != nil || json.Unmarshal(data, &s) != nil {
		return board{}
	}
	return s
}

// write stores s. If no process has a row, it removes the file.
func (b *Block) write(s *board) {
	if len(s.Rows) == 0 {
		os.Remove(b.path)
		os.Remove(filepath.Dir(b.path)) // it fails if other groups have files there
		return
	}
	data, err := json.Marshal(s)
	if err == nil {
		_, err = b.file.WriteAt(data, 0)
	}
	if err == nil {
		b.file.Truncate(int64(len(data)))
	}
}
