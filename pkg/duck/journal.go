package duck

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/duckdb/duckdb-go/v2/mapping"

	"gbatch/pkg/exit"
	"gbatch/pkg/lockfile"
)

// A journal repairs a database after an unfinished checkpoint.
//
// DuckDB never overwrites data, and a checkpoint counts only when the file's
// head points to it. But a block of metadata has 64 pieces: some may be in use
// while a checkpoint fills free ones. DuckDB then writes the whole block again,
// with a new checksum in its first 8 bytes. If kill -9 or a power failure
// interrupts such a write, DuckDB refuses the file from then on: "Corrupt
// database file: computed checksum … does not match stored checksum". Yet only
// free pieces and the checksum differ. The pieces in use have the same bytes in
// the old block and in the new one, so they also have these bytes in any mix of
// the two.
//
// So before anything is written, a file beside the database records which pieces
// are in use, and a hash of them. If a process is killed, the next process to
// open the database for writing finds the record. If the head has not changed
// and the hash matches, that process writes the correct checksum into each block
// that has a wrong one. It never writes anything else, and it writes nothing if
// anything does not match.
//
// Source: DuckDB, src/storage/metadata/metadata_manager.cpp and
// src/storage/single_file_block_manager.cpp.
type journal struct {
	path string
	db   *lock
	kept bool // the file at path is not this database's journal: it is kept, and no journal is written
}

// This file is known to be right for these DuckDB libraries and storage
// versions. For any other, no journal is written and none is used.
var (
	journalLibraries = []string{"v1.5.6"}
	journalStorage   = struct{ first, last uint64 }{64, 68}
)

const (
	headSize   = 3 * 4096 // the main header and two database headers; blocks follow
	pieceCount = 64       // in a block of metadata
)

// journalMagic is the beginning of a journal.
var journalMagic = [16]byte([]byte("gbatch journal 2"))

// A journalHead is the first part of a journal. The blocks follow, then a CRC of
// everything before it.
type journalHead struct {
	Magic  [16]byte
	State  state
	Pieces [sha256.Size]byte // hash of the pieces in use, in the order of the blocks
	Blocks uint64            // number of blocks
}

// A state identifies the content of a database file between two checkpoints.
type state struct {
	Head      [sha256.Size]byte // hash of the file's head
	ID        [16]byte          // identifier of the database; 0 before storage version 67
	Iteration uint64            // counts the checkpoints
	BlockSize uint64
}

// A metaBlock is a block of metadata.
type metaBlock struct {
	ID   uint64
	Free uint64 // the pieces that are not in use, as bits
}

func (b metaBlock) offset(s state) int64 { return headSize + int64(b.ID*s.BlockSize) }

var (
	journalLen = binary.Size(journalHead{})
	blockLen   = binary.Size(metaBlock{})
)

// crc makes the table at its first use: most commands need none.
func crc(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

var (
	errForeign = errors.New("not a journal of this version of gbatch")
	errCut     = errors.New("the journal is not complete")
	errUnknown = errors.New("not known to the journal")
)

// parseJournal reads a journal. The error is errForeign if the file is not a
// journal. It is errCut if a process was killed while it wrote the journal: that
// process has not written to the database.
func parseJournal(b []byte) (h journalHead, blocks []metaBlock, err error) {
	if n := min(len(b), len(journalMagic)); !bytes.Equal(b[:n], journalMagic[:n]) {
		return h, nil, errForeign
	}
	end := len(b) - crc32.Size
	if end < journalLen || crc(b[:end]) != binary.LittleEndian.Uint32(b[end:]) {
		return h, nil, errCut
	}
	n, err := binary.Decode(b, binary.LittleEndian, &h)
	if err != nil {
		return h, nil, err
	}
	b = b[n:end]
	if len(b)%blockLen != 0 || uint64(len(b)/blockLen) != h.Blocks || h.State.check() != nil {
		return h, nil, errCut
	}
	blocks = make([]metaBlock, h.Blocks)
	if _, err := binary.Decode(b, binary.LittleEndian, blocks); err != nil {
		return h, nil, err
	}
	for _, block := range blocks {
		if block.ID > 1<<62/h.State.BlockSize {
			return h, nil, errCut
		}
	}
	return h, blocks, nil
}

func (h journalHead) encode(blocks []metaBlock) []byte {
	b, _ := binary.Append(nil, binary.LittleEndian, h)
	b, _ = binary.Append(b, binary.LittleEndian, blocks)
	return binary.LittleEndian.AppendUint32(b, crc(b))
}

// check refuses block sizes that DuckDB does not use.
func (s state) check() error {
	if s.BlockSize < 16<<10 || s.BlockSize > 256<<10 || s.BlockSize&(s.BlockSize-1) != 0 {
		return fmt.Errorf("block size %d: %w", s.BlockSize, errUnknown)
	}
	return nil
}

// stateOf reads the head of a database.
func stateOf(db io.ReaderAt) (s state, err error) {
	if v := mapping.LibraryVersion(); !slices.Contains(journalLibraries, v) {
		return s, fmt.Errorf("DuckDB %s: %w", v, errUnknown)
	}
	head := make([]byte, headSize)
	if _, err := db.ReadAt(head, 0); err == io.EOF {
		return s, fmt.Errorf("the file's head is cut short: %w", errUnknown)
	} else if err != nil {
		return s, err
	}
	word := func(at int) uint64 { return binary.LittleEndian.Uint64(head[at:]) }
	for at := 0; at < headSize; at += 4096 {
		if checksum(head[at:at+4096]) != word(at) {
			return s, fmt.Errorf("the file's head is damaged: %w", errUnknown)
		}
	}
	// The main header: checksum, "DUCK", storage version, 4 flags, the library
	// that made the file (64 bytes), encryption (8), identifier (16).
	if v := word(12); string(head[8:12]) != "DUCK" || v < journalStorage.first || v > journalStorage.last || word(20) != 0 {
		return s, fmt.Errorf("storage version %d, flags %x: %w", v, word(20), errUnknown)
	}
	copy(s.ID[:], head[124:140])
	// A database header: checksum, iteration, meta block, free list, block count,
	// block size. The header with the higher iteration counts.
	at := 4096
	if word(at+8) <= word(2*at+8) {
		at *= 2
	}
	s.Head, s.Iteration, s.BlockSize = sha256.Sum256(head), word(at+8), word(at+40)
	if s.BlockSize == 0 {
		s.BlockSize = 256 << 10
	}
	return s, s.check()
}

// examine reads the blocks. It returns the hash of the pieces in use, and the
// correct checksum of each block whose checksum is wrong.
func examine(db io.ReaderAt, s state, blocks []metaBlock) (pieces [sha256.Size]byte, torn map[int64]uint64, err error) {
	h := sha256.New()
	block := make([]byte, s.BlockSize)
	size := (s.BlockSize - 8) / pieceCount &^ 7
	torn = map[int64]uint64{}
	for _, b := range blocks {
		if _, err := db.ReadAt(block, b.offset(s)); err != nil {
			return pieces, nil, err
		}
		for i := range uint64(pieceCount) {
			if b.Free>>i&1 == 0 {
				h.Write(block[8+i*size : 8+(i+1)*size])
			}
		}
		if sum := checksum(block); sum != binary.LittleEndian.Uint64(block) {
			torn[b.offset(s)] = sum
		}
	}
	return [sha256.Size]byte(h.Sum(nil)), torn, nil
}

// checksum is the sum that DuckDB writes into the first 8 bytes of a block or
// header. Source: DuckDB, src/common/checksum.cpp.
func checksum(block []byte) uint64 {
	sum := uint64(5381)
	for b := block[8:]; len(b) >= 8; b = b[8:] {
		sum ^= binary.LittleEndian.Uint64(b) * 0xbf58476d1ce4e5b9
	}
	return sum
}

// A verdict says what a journal means for the database beside it.
type verdict int

const (
	none     verdict = iota // there is no journal
	unneeded                // the journal is not needed any more
	mendable                // a checkpoint was interrupted: the checksums of torn blocks must be written
	damaged                 // blocks are torn, and the pieces in use do not match the journal
	another                 // the journal belongs to another database, or to another copy of this one
	foreign                 // the file is not a journal, or something in it is unknown
)

// judge compares a journal with the database, and changes neither. The caller
// must hold the database's lock, so that no other process writes to it.
func judge(b []byte, db io.ReaderAt) (v verdict, torn map[int64]uint64, err error) {
	h, blocks, err := parseJournal(b)
	if errors.Is(err, errCut) {
		return unneeded, nil, nil
	}
	var now state
	if err == nil {
		now, err = stateOf(db)
	}
	if errors.Is(err, errForeign) || errors.Is(err, errUnknown) {
		slog.Debug("the journal is not used", "error", err)
		return foreign, nil, nil
	} else if err != nil {
		return none, nil, err
	}
	if now != h.State {
		if now.ID == h.State.ID && now.Iteration > h.State.Iteration {
			return unneeded, nil, nil // the checkpoint was finished
		}
		return another, nil, nil
	}
	pieces, torn, err := examine(db, now, blocks)
	switch {
	case err == io.EOF: // the file was cut off
		return damaged, nil, nil
	case err != nil:
		return none, nil, err
	case pieces == h.Pieces && len(torn) == 0:
		return unneeded, nil, nil
	case pieces == h.Pieces:
		return mendable, torn, nil
	case len(torn) == 0:
		return another, nil, nil
	}
	return damaged, nil, nil
}

// maxJournal is the size in bytes up to which a file is read as a journal. It is
// enough for the metadata of petabytes.
const maxJournal = 1 << 20

func readJournal(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if errors.Is(err, syscall.ELOOP) {
		return []byte("a link"), nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return []byte("not a regular file"), nil
	}
	return io.ReadAll(io.LimitReader(f, maxJournal))
}

// openJournal examines the journal that a killed process left. If mode allows
// writing, it repairs the database. For a reader it returns a nil journal, which
// does nothing.
func openJournal(path string, db *lock, mode Access) (*journal, error) {
	j := &journal{path: path + ".journal", db: db}
	v, err := j.recover(mode != Read)
	if err != nil {
		return nil, err
	}
	if v == another {
		if _, err := os.Lstat(path + ".wal"); err == nil {
			return nil, fmt.Errorf("%s and %s.wal belong to another database, or to another copy of this one, and DuckDB would add the changes in the .wal to this file; move both files away: if their database still exists, move them to it", j.path, path)
		}
	}
	if mode == Read {
		return nil, nil
	}
	if v == another || v == foreign {
		slog.Warn("no journal can be written, because a file with its name is not a journal of this database; without a journal, a kill -9 can make the database unreadable: move the file away", "file", j.path)
	}
	return j, nil
}

// recover repairs the database if necessary, and deletes a journal that is not
// needed any more. A reader changes nothing.
func (j *journal) recover(write bool) (verdict, error) {
	b, err := readJournal(j.path)
	if errors.Is(err, fs.ErrNotExist) {
		return none, nil
	} else if err != nil {
		return none, err
	}
	v, torn, err := judge(b, j.db)
	if err != nil {
		return v, fmt.Errorf("%s: %w", j.path, err)
	}
	switch {
	case v == damaged:
		return v, fmt.Errorf("the file is damaged in a way that %s cannot repair: the journal belongs to another database, or more than the last checkpoint was lost; nothing was changed; restore a backup, and move the journal away", j.path)
	case v == mendable && !write:
		return v, ErrUnfinished
	case v == mendable:
		for at, sum := range torn {
			if _, err := j.db.WriteAt(binary.LittleEndian.AppendUint64(nil, sum), at); err != nil {
				return v, err
			}
		}
		if err := j.db.Sync(); err != nil {
			return v, err
		}
		slog.Info("the database was repaired after an unfinished checkpoint", "db", j.db.Name(), "blocks", len(torn))
	case v == another || v == foreign:
		j.kept = true
	}
	if write && (v == mendable || v == unneeded) {
		if err := os.Remove(j.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return v, fmt.Errorf("a journal that is not needed any more cannot be deleted: %w", err)
		}
	}
	return v, nil
}

// protect writes the journal of the database that c has just opened.
func (j *journal) protect(c *Conn) error {
	if j == nil || j.kept {
		return nil
	}
	h := journalHead{Magic: journalMagic}
	var err error
	if h.State, err = stateOf(j.db); errors.Is(err, errUnknown) {
		slog.Debug("no journal is written", "error", err)
		return nil
	} else if err != nil {
		return err
	}
	blocks, err := metadata(c)
	if err != nil || !slices.ContainsFunc(blocks, func(b metaBlock) bool { return b.Free != 0 }) {
		return err // a checkpoint then never overwrites a block
	}
	h.Blocks = uint64(len(blocks))
	if h.Pieces, _, err = examine(j.db, h.State, blocks); err != nil {
		return err
	}
	info, err := j.db.Stat()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|syscall.O_NOFOLLOW, info.Mode().Perm())
	if errors.Is(err, fs.ErrExist) {
		return exit.Errorf(exit.TryLater, "another process has just created %s; run the command again", j.path)
	} else if err != nil {
		return err
	}
	_, err = f.Write(h.encode(blocks))
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

// metadata lists the blocks of metadata of the attached file.
func metadata(c *Conn) (blocks []metaBlock, err error) {
	var odd error
	err = c.Each(func(r *Rows) {
		b := metaBlock{ID: uint64(r.Int(0))}
		if r.Int(1) != pieceCount {
			odd = fmt.Errorf("DuckDB divides a block of metadata into %d pieces instead of %d", r.Int(1), pieceCount)
		}
		for _, s := range strings.Fields(r.Text(2)) {
			i, err := strconv.ParseUint(s, 10, 64)
			if err != nil || i >= pieceCount {
				odd = fmt.Errorf("DuckDB lists %q as a piece of block %d", s, b.ID)
			}
			b.Free |= 1 << i
		}
		blocks = append(blocks, b)
	}, "SELECT block_id, total_blocks, array_to_string(free_list, ' ') FROM pragma_metadata_info() ORDER BY block_id")
	return blocks, cmp.Or(err, odd)
}

// close deletes the journal of a database that DuckDB has closed.
func (j *journal) close() {
	if j == nil || j.kept {
		return
	}
	// If another process has opened the database by now, it will delete the
	// journal.
	err := j.db.acquire()
	if err == nil {
		_, err = j.recover(true)
	}
	if err != nil && !errors.Is(err, errLocked) {
		slog.Error("the journal was not deleted", "error", err)
	}
}
