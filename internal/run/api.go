package run

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/ampoule-vm/ampoule/internal/control/eventstream"
	"github.com/ampoule-vm/ampoule/internal/control/httpapi"
	"github.com/ampoule-vm/ampoule/internal/diag"
	"github.com/ampoule-vm/ampoule/internal/plan"
)

// apiControl holds a hypervisor that is asked over HTTP.
type apiControl struct {
	api *plan.API
	// dial gives the connection, once the hypervisor is there.
	dial func(context.Context) (net.Conn, error)
	// requests start the guest; their bodies are the command line's.
	requests []apiRequest
	// mask keeps credentials out of the hypervisor's words.
	mask func(string) string
	// source is where it writes events, and stream what it has written; nil where
	// it does not.
	source *os.File
	stream *eventstream.Stream

	client *httpapi.Client
	out    chan event
	over   chan struct{}
	once   sync.Once
}

// apiRequest is a request whose questions are answered.
type apiRequest struct {
	method, path string
	body         httpapi.Body
	// files are the descriptors that go with it.
	files []*os.File
}

func newAPIControl(api *plan.API) *apiControl {
	return &apiControl{api: api, over: make(chan struct{})}
}

// listen begins to read events, of which the first come before the hypervisor
// answers.
func (c *apiControl) listen() {
	if c.source != nil {
		c.stream = eventstream.New(c.source)
		c.out = make(chan event)
		go c.pump()
	}
}

// refusedError is a request that the hypervisor does not carry out.
type refusedError struct {
	// index is that among the requests that start the guest.
	index  int
	path   string
	status int
	// words are the hypervisor's, fit to be shown.
	words string
}

func (e *refusedError) Error() string {
	text := fmt.Sprintf("the hypervisor refuses the request %s (status %d)", e.path, e.status)
	if e.words != "" {
		text += ": " + e.words
	}
	return text
}

func (c *apiControl) launch(ctx context.Context) (version string, err error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return "", err
	}
	c.client = httpapi.New(conn)
	reply, err := c.ask(ctx, c.api.Alive)
	if err != nil {
		return "", err
	}
	if version, err = c.checkVersion(reply.Body); err != nil {
		return "", err
	}
	for i, r := range c.requests {
		reply, err := c.client.DoWith(ctx, r.method, r.path, r.body, r.files)
		if err != nil {
			return "", fmt.Errorf("the request %s: %w", r.path, err)
		}
		if reply.Status/100 != 2 {
			return "", &refusedError{i, r.path, reply.Status, c.mask(wordsOf(reply.Body))}
		}
	}
	return version, nil
}

// ask makes a request that has nothing to hide.
func (c *apiControl) ask(ctx context.Context, r plan.Request) (httpapi.Reply, error) {
	chunks, err := r.Render(noQuestion)
	if err != nil {
		return httpapi.Reply{}, err
	}
	var body httpapi.Body
	if len(chunks) > 0 {
		body = bytes.NewReader(chunks[0].JSON)
	}
	reply, err := c.client.Do(ctx, r.Method, r.Path, body)
	switch {
	case err != nil:
		return reply, fmt.Errorf("the request %s: %w", r.Path, err)
	case reply.Status/100 != 2:
		return reply, &refusedError{-1, r.Path, reply.Status, c.mask(wordsOf(reply.Body))}
	}
	return reply, nil
}

// noQuestion is the answer of whoever starts nothing.
func noQuestion(q plan.Question) (plan.Answer, error) {
	return plan.Answer{}, fmt.Errorf("a request asks %q, and starts nothing", q)
}

func (c *apiControl) request(ctx context.Context, r plan.Request, read func([]byte) error) error {
	reply, err := c.ask(ctx, r)
	defer reply.Wipe()
	if err != nil {
		return err
	}
	return read(reply.Body)
}

// checkVersion finds the version in the answer, and refuses one that is too old:
// it would leave out what it does not know.
func (c *apiControl) checkVersion(answer []byte) (string, error) {
	if c.api.Version == "" {
		return "", nil
	}
	var members map[string]any
	_ = json.Unmarshal(answer, &members) // without a version it is refused anyway
	says, _ := members[strings.TrimPrefix(c.api.Version, "/")].(string)
	version, ok := parseVersion(says)
	oldest, _ := parseVersion(c.api.Oldest)
	switch {
	case !ok:
		return "", errors.New("the hypervisor does not say which version it is")
	case slices.Compare(version, oldest) < 0:
		return "", fmt.Errorf("the hypervisor has version %s, which is older than the oldest that Ampoule can use, %s", says, c.api.Oldest)
	}
	return says, nil
}

// parseVersion reads the numbers at the beginning of a version.
func parseVersion(s string) (numbers []int, ok bool) {
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(s)
	}
	for part := range strings.SplitSeq(strings.TrimSuffix(s[:end], "."), ".") {
		n, err := strconv.Atoi(part)
		if err != nil || len(s) > 64 {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, true
}

// maxWords is how much of a refusal is shown.
const maxWords = 500

// wordsOf makes one line of a refusal: the texts in its JSON, the outermost
// first, or what there is.
func wordsOf(body []byte) string {
	var list []string
	var object map[string]any
	text := string(body)
	if json.Unmarshal(body, &list) == nil {
		text = strings.Join(list, ": ")
	} else if json.Unmarshal(body, &object) == nil {
		var texts []string
		for _, name := range []string{"fault_message", "error"} {
			if s, ok := object[name].(string); ok {
				texts = append(texts, s)
			}
		}
		text = strings.Join(texts, ": ")
	}
	return diag.Printable(oneLine(text), maxWords)
}

func (c *apiControl) events() <-chan event { return c.out }

func (c *apiControl) err() error {
	if c.client == nil {
		return nil
	}
	return c.client.Err()
}

// order takes what requests there are for. A guest that reboots does so by itself,
// and a hypervisor whose guest has ended is killed.
func (c *apiControl) order(ctx context.Context, what order) error {
	request := map[order]*plan.Request{pressButton: c.api.Power, beAlive: &c.api.Alive}[what]
	if request == nil {
		return errCannot
	}
	_, err := c.ask(ctx, *request)
	return err
}

func (c *apiControl) close() {
	c.once.Do(func() { close(c.over) })
	if c.client != nil {
		_ = c.client.Close()
	}
	if c.source != nil {
		c.source.Close() // which ends the stream
	}
}

// pump translates events until there are no more.
func (c *apiControl) pump() {
	defer close(c.out)
	for object := range c.stream.Objects() {
		var said struct{ Source, Event string }
		_ = json.Unmarshal(object, &said) // an object without them says nothing
		for _, e := range c.api.Events {
			if e.Source != said.Source || e.Event != said.Event {
				continue
			}
			select {
			case c.out <- event{what: happenings()[e.Means]}:
			case <-c.over:
				return
			}
		}
	}
}
