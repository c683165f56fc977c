package qmp

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

type kind int

const (
	kindGreeting kind = iota + 1
	kindReturn
	kindError
	kindEvent
)

// message is one that was received; the fields of its kind are set.
type message struct {
	kind kind
	size int // bytes of the line

	version Version // greeting

	id     uint64 // return, error
	result json.RawMessage
	class  string
	desc   string

	event Event
}

// wireMessage is the union of all that QEMU sends.
type wireMessage struct {
	QMP *struct {
		Version struct {
			QEMU struct {
				Major int `json:"major"`
				Minor int `json:"minor"`
				Micro int `json:"micro"`
			} `json:"qemu"`
			Package string `json:"package"`
		} `json:"version"`
	} `json:"QMP"`
	Return json.RawMessage `json:"return"`
	Error  *struct {
		Class string `json:"class"`
		Desc  string `json:"desc"`
	} `json:"error"`
	ID        *uint64         `json:"id"`
	Event     *string         `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// readMessage reads the next message of at most limit bytes. Errors never
// repeat what was read.
func readMessage(r *bufio.Reader, limit int) (message, error) {
	for {
		line, err := readLine(r, limit)
		if err != nil {
			return message{}, err
		}
		if len(bytes.TrimSpace(line)) > 0 {
			return parseMessage(line)
		}
	}
}

// readLine reads up to a newline. The line is valid until the next call.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var long []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(long)+len(part) > limit {
			return nil, fmt.Errorf("%w: longer than %d bytes", ErrProtocol, limit)
		}
		switch {
		case err == nil && long == nil:
			return part, nil
		case err == nil:
			return append(long, part...), nil
		case errors.Is(err, bufio.ErrBufferFull):
			long = append(long, part...)
		case peerGone(err):
			if len(long)+len(part) > 0 {
				return nil, fmt.Errorf("%w in the middle of a message: %w", ErrPeerGone, io.ErrUnexpectedEOF)
			}
			return nil, fmt.Errorf("%w: %w", ErrPeerGone, err)
		default:
			return nil, fmt.Errorf("reading from the QMP connection: %w", err)
		}
	}
}

func parseMessage(line []byte) (message, error) {
	m := message{size: len(line)}
	var w wireMessage
	if err := json.Unmarshal(line, &w); err != nil {
		return m, fmt.Errorf("%w: %w", ErrProtocol, describeJSON(err))
	}
	kinds := 0
	if w.QMP != nil {
		kinds++
		v := w.QMP.Version
		m.kind, m.version = kindGreeting, Version{v.QEMU.Major, v.QEMU.Minor, v.QEMU.Micro, v.Package}
	}
	if w.Return != nil {
		kinds++
		m.kind, m.result = kindReturn, w.Return
	}
	if w.Error != nil {
		kinds++
		m.kind, m.class, m.desc = kindError, w.Error.Class, w.Error.Desc
	}
	if w.Event != nil {
		kinds++
		m.kind, m.event = kindEvent, Event{
			Event: *w.Event, Data: w.Data,
			Time: eventTime(w.Timestamp.Seconds, w.Timestamp.Microseconds),
		}
	}
	if kinds != 1 {
		return m, fmt.Errorf("%w: neither greeting, answer nor event", ErrProtocol)
	}
	if m.kind == kindReturn || m.kind == kindError {
		if w.ID == nil {
			return m, fmt.Errorf("%w: an answer without an id", ErrProtocol)
		}
		m.id = *w.ID
	}
	return m, nil
}

// eventTime converts a timestamp. QEMU sends -1 for both parts when it does
// not know the time, and no sane value is negative: that is the zero Time.
func eventTime(seconds, micros int64) time.Time {
	const farFuture = 1 << 40
	if seconds < 0 || seconds > farFuture || micros < 0 || micros >= 1e6 {
		return time.Time{}
	}
	return time.Unix(seconds, micros*1000)
}

// describeJSON keeps the place of an error and drops its text, which can
// contain what was received.
func describeJSON(err error) error {
	var syntax *json.SyntaxError
	if errors.As(err, &syntax) {
		return fmt.Errorf("no valid JSON at byte %d", syntax.Offset)
	}
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		return fmt.Errorf("%s of the wrong type", kind.Field)
	}
	return errors.New("no valid JSON")
}
