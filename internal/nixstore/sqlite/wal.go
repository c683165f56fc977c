package sqlite

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// wal is a write-ahead log: where the newest committed form of each page in it is.
type wal struct {
	file     io.ReaderAt
	pageSize int
	// frames are the offsets of pages.
	frames map[uint32]int64
	// committed is the size of the database in pages after the last commit; 0: the
	// log holds none.
	committed uint32
	header    [walHeader]byte
}

const (
	walHeader   = 32
	frameHeader = 24
	// The last bit says in which order of bytes the sums are made.
	walMagic = 0x377f0682
)

// readWAL finds the committed frames of a log. One that is empty, or whose header
// is not whole, holds nothing: SQLite starts it anew.
func readWAL(file io.ReaderAt, size int64) (*wal, error) {
	w := &wal{file: file, frames: map[uint32]int64{}}
	if size < walHeader {
		return nil, nil
	}
	if _, err := file.ReadAt(w.header[:], 0); err != nil {
		return nil, err
	}
	magic := binary.BigEndian.Uint32(w.header[0:])
	if magic&^1 != walMagic {
		return nil, nil
	}
	if version := binary.BigEndian.Uint32(w.header[4:]); version != 3007000 {
		return nil, fmt.Errorf("the log has version %d, and 3007000 is read", version)
	}
	w.pageSize = int(binary.BigEndian.Uint32(w.header[8:]))
	if w.pageSize < 512 || w.pageSize > 65536 || w.pageSize&(w.pageSize-1) != 0 {
		return nil, nil
	}
	order := binary.ByteOrder(binary.LittleEndian)
	if magic&1 != 0 {
		order = binary.BigEndian
	}
	s := sum{order: order}
	s.add(w.header[:24])
	if !s.is(w.header[24:32]) {
		return nil, nil
	}
	if err := w.scan(size, s); err != nil {
		return nil, err
	}
	return w, nil
}

// scan goes through the frames until one is not of this log, and keeps what is
// before the last commit.
func (w *wal) scan(size int64, s sum) error {
	frame := make([]byte, frameHeader+w.pageSize)
	pending := map[uint32]int64{}
	for at := int64(walHeader); at+int64(len(frame)) <= size; at += int64(len(frame)) {
		if _, err := w.file.ReadAt(frame, at); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // it was cut off meanwhile
			}
			return err
		}
		if string(frame[8:16]) != string(w.header[16:24]) {
			return nil
		}
		s.add(frame[:8])
		s.add(frame[frameHeader:])
		if !s.is(frame[16:24]) {
			return nil
		}
		pending[binary.BigEndian.Uint32(frame)] = at + frameHeader
		if pages := binary.BigEndian.Uint32(frame[4:]); pages > 0 {
			for n, offset := range pending {
				w.frames[n] = offset
			}
			clear(pending)
			w.committed = pages
		}
	}
	return nil
}

// sum is the running checksum of a log.
type sum struct {
	order binary.ByteOrder
	a, b  uint32
}

func (s *sum) add(data []byte) {
	for ; len(data) >= 8; data = data[8:] {
		s.a += s.order.Uint32(data) + s.b
		s.b += s.order.Uint32(data[4:]) + s.a
	}
}

func (s *sum) is(stored []byte) bool {
	return s.a == binary.BigEndian.Uint32(stored) && s.b == binary.BigEndian.Uint32(stored[4:])
}

// Changed reports whether somebody has written over what was read: the log was
// begun anew, or has become shorter. Then what was read may be of two moments.
func (db *DB) Changed(logSize int64) bool {
	if db.log == nil {
		return false
	}
	var now [walHeader]byte
	if logSize < walHeader {
		return true
	}
	if _, err := db.log.file.ReadAt(now[:], 0); err != nil {
		return true
	}
	return now != db.log.header
}
