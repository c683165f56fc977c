package fake

import (
	"encoding/json"
	"errors"
	"os"
	"sync"
	"syscall"
	"time"
)

// event is one of the event monitor's. Its properties are null where there are
// none.
type event struct {
	Timestamp  timestamp         `json:"timestamp"`
	Source     string            `json:"source"`
	Event      string            `json:"event"`
	Properties map[string]string `json:"properties"`
}

// timestamp counts from the start of the process.
type timestamp struct {
	Secs  uint64 `json:"secs"`
	Nanos uint32 `json:"nanos"`
}

// monitor writes events without ever waiting: what does not fit into the pipe is
// lost, in the middle of an event too. The real one also loses the last events now
// and then, when the process ends before they are written.
type monitor struct {
	mu    sync.Mutex
	file  *os.File // nil: nobody listens
	start time.Time
	log   *logger
}

func (m *monitor) emit(source, name string, properties map[string]string) {
	m.log.info("event_monitor/src/lib.rs:113", "Event: source = "+source+" event = "+name+" "+flat(properties))
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file == nil {
		return
	}
	since := time.Since(m.start)
	text, err := json.MarshalIndent(event{
		timestamp{uint64(since / time.Second), uint32(since % time.Second)}, source, name, properties,
	}, "", "  ")
	if err != nil {
		return
	}
	if m.write(text) == nil {
		_ = m.write([]byte("\n\n"))
	}
}

// lose drops all that comes from now on.
func (m *monitor) lose() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.file != nil {
		m.file.Close()
		m.file = nil
	}
}

// write bypasses the runtime's poller, which would wait for the reader.
func (m *monitor) write(data []byte) error {
	for len(data) > 0 {
		n, err := syscall.Write(int(m.file.Fd()), data)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func flat(properties map[string]string) string {
	out := ""
	for key, value := range properties {
		if out != "" {
			out += ", "
		}
		out += key + " = " + value
	}
	return out
}
