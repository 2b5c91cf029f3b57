package duck

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// A journal keeps the blocks that a checkpoint may write over.
//
// DuckDB never writes over data, and a checkpoint counts only when the file's
// head points to it. But a block of metadata has many pieces. The file as it
// stands may use some of them while a checkpoint fills others, and then DuckDB
// writes the whole block again, with a new checksum. If kill -9 or a power
// failure cuts such a write of 256 KB short, DuckDB refuses the file from then
// on: "Corrupt database file: computed checksum … does not match stored
// checksum".
//
// So these blocks, a handful, and the head are copied to a file beside the
// database before anything is written. If a process is killed, the next process
// to open the database finds the copy. If the head has not changed, none of
// the new pieces is in use, and each block whose checksum is wrong is put back.
// If it has changed, the checkpoint was finished and the copy is not needed.
//
// A nil journal does nothing.
type journal struct {
	path string
	db   *os.File
}

// head is the size of a file's head in bytes: the main header and two database
// headers, which DuckDB writes in turn. Blocks follow, counted from 0.
// Source: duckdb.org/docs/current/internals/storage.
const head = 3 * 4096

// journalMagic begins a journal. After it come the head, each block after its
// offset and length, and a CRC of everything before.
const journalMagic = "gbatch journal 1"

// errKept is the error of a journal that is not needed any more but cannot be
// deleted, for example in a read-only folder.
var errKept = errors.New("the journal cannot be deleted")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openJournal repairs a file that a killed process left. Call it before the
// database is opened, and close the journal after the database is closed:
// DuckDB's locks belong to the process, and are lost when the process closes
// any of its descriptors of the file. A reader needs no journal and gets nil.
func openJournal(path string, mode Access) (*journal, error) {
	j := &journal{path: path + ".journal"}
	if _, err := os.Lstat(j.path); mode == Read && errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	var err error
	j.db, err = os.OpenFile(path, os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist) && mode == Create:
		os.Remove(j.path) // it belongs to a database that was deleted
		return nil, nil
	case err != nil && mode == Read:
		return nil, nil // DuckDB will say what is wrong, if anything is
	case err != nil:
		return nil, err
	}
	err = j.recover()
	if err == nil && mode != Read {
		return j, nil
	}
	j.db.Close()
	if mode == Read && (errors.Is(err, errLocked) || errors.Is(err, errKept)) {
		err = nil // neither another process nor an old journal keeps a reader out
	}
	return nil, err
}

// recover deletes the journal. If its checkpoint was not finished, it puts the
// blocks back first.
func (j *journal) recover() error {
	if _, err := os.Lstat(j.path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	// This is DuckDB's own lock: no other process has the file open now.
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart}
	if err := syscall.FcntlFlock(j.db.Fd(), syscall.F_SETLK, &lock); errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.EACCES) {
		return errLocked
	} else if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil // another process was faster
	}
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return err
	}
	if err := j.restore(b); err != nil {
		return err
	}
	if err := os.Remove(j.path); err != nil {
		return fmt.Errorf("%w: %w", errKept, err)
	}
	return nil
}

// restore writes the torn blocks of a journal back, if it is whole and the
// database's head is the one in it.
func (j *journal) restore(b []byte) error {
	end := len(b) - crc32.Size
	if end < len(journalMagic)+head || string(b[:len(journalMagic)]) != journalMagic || crc32.Checksum(b[:end], castagnoli) != binary.LittleEndian.Uint32(b[end:]) {
		return nil // the process was killed before it began to write
	}
	now := make([]byte, head)
	if _, err := j.db.ReadAt(now, 0); err != nil {
		return err
	}
	b = b[len(journalMagic):end]
	if !bytes.Equal(now, b[:head]) {
		return nil
	}
	torn := false
	for b = b[head:]; len(b) > 0; {
		at, n := int64(binary.LittleEndian.Uint64(b)), int(binary.LittleEndian.Uint64(b[8:]))
		old := b[16 : 16+n]
		b = b[16+n:]
		now = append(now[:0], old...)
		if _, err := j.db.ReadAt(now, at); err != nil {
			return err
		}
		// If the file was replaced, it may have the same head, but its blocks are
		// whole.
		if checksum(now) == binary.LittleEndian.Uint64(now) {
			continue
		}
		torn = true
		if _, err := j.db.WriteAt(old, at); err != nil {
			return err
		}
	}
	if !torn {
		return nil
	}
	slog.Info("undid a checkpoint that was not finished", "db", j.db.Name())
	return j.db.Sync()
}

// checksum is the sum that DuckDB writes into the first 8 bytes of a block.
// Source: DuckDB, src/common/checksum.cpp.
func checksum(block []byte) uint64 {
	sum := uint64(5381)
	for b := block[8:]; len(b) >= 8; b = b[8:] {
		sum ^= binary.LittleEndian.Uint64(b) * 0xbf58476d1ce4e5b9
	}
	return sum
}

// protect writes the journal of the database that c has just opened.
func (j *journal) protect(c *Conn) error {
	if j == nil {
		return nil
	}
	r, err := c.Query("SELECT block_id, (SELECT block_size FROM pragma_database_size() WHERE database_name = current_database()) FROM pragma_metadata_info() WHERE free_blocks > 0")
	if err != nil {
		return err
	}
	defer r.Close()
	b := append([]byte(journalMagic), make([]byte, head)...)
	if _, err := j.db.ReadAt(b[len(journalMagic):], 0); err != nil {
		return err
	}
	none := true
	for r.Next() {
		none = false
		at, size := head+r.Int(0)*r.Int(1), int(r.Int(1))
		b = binary.LittleEndian.AppendUint64(b, uint64(at))
		b = binary.LittleEndian.AppendUint64(b, uint64(size))
		b = append(b, make([]byte, size)...)
		if _, err := j.db.ReadAt(b[len(b)-size:], at); err != nil {
			return fmt.Errorf("block at %d: %w", at, err)
		}
	}
	if none {
		return nil
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	info, err := j.db.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, info.Mode().Perm())
	if errors.Is(err, os.ErrExist) {
		return exit.Errorf(exit.TryLater, "%s was left at this moment by a process that was killed; run the command again", j.path)
	}
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = lockfile.SyncDir(filepath.Dir(j.path))
	}
	return err
}

// close ends the journal of a database that was closed.
func (j *journal) close() {
	if j == nil {
		return
	}
	// If another process has the database by now, that process deletes the journal.
	if err := j.recover(); err != nil && !errors.Is(err, errLocked) {
		slog.Error("the journal was not deleted", "error", err)
	}
	j.db.Close()
}
