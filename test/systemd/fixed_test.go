package systemd

import (
	"strings"

	"github.com/ampoule-vm/ampoule/internal/unitfile"
)

// fixed returns the files that chance would not hit: limits, one rule each of
// encoding and line ends, and everything our writer can produce.
func fixed() []string {
	const service = "[Service]\nType=oneshot\nExecStart=/x\n"
	fill := func(n int) string { return strings.Repeat("x", n) }
	const limit = unitfile.MaxLine
	files := []string{
		// The longest physical line, one more, and the same at the end of file.
		service + "#" + fill(limit-2) + "\nSyslogIdentifier=end\n",
		service + "#" + fill(limit-1) + "\nSyslogIdentifier=end\n",
		service + "SyslogIdentifier=a\n#" + fill(limit-2),
		service + "SyslogIdentifier=a\n#" + fill(limit-1),
		service + "SetCredential=a:" + fill(limit-17) + "\nSyslogIdentifier=end\n",
		service + "SetCredential=a:" + fill(limit-16) + "\nSyslogIdentifier=end\n",
		service + "Kq=1" + strings.Repeat(" ", limit-5) + "\nSyslogIdentifier=end\n",
		service + "Kq=1" + strings.Repeat(" ", limit-4) + "\nSyslogIdentifier=end\n",
		// The longest joined line, one more, and comments in between.
		service + "Kq=1\\\n" + fill(limit-5) + "\nSyslogIdentifier=end\n",
		service + "Kq=1\\\n" + fill(limit-4) + "\nSyslogIdentifier=end\n",
		service + "Kq=1\\\n#" + fill(limit/2) + "\n" + fill(limit-5) + "\nSyslogIdentifier=end\n",
		service + "Kq=1\\\n\uFEFF" + fill(limit-5) + "\nSyslogIdentifier=end\n",
		service + "Kq=1\\\n" + fill(limit-6) + "\\\n\nSyslogIdentifier=end\n",
		service + "Kq=1\\\n" + fill(limit-5) + "\\\n\nSyslogIdentifier=end\n",
		// In not too many pieces: systemd takes quadratic time over them.
		service + "Kq=1" + strings.Repeat("\\\n"+fill(1<<13-1), limit>>13) + "\nSyslogIdentifier=end\n",

		"\uFEFF[Unit]\nDescription=bom\n" + service,
		"\uFEFF# c\n[Unit]\nDescription=bom\n" + service,
		"\uFEFF# c\\\n[Unit]\nDescription=bom\n" + service,
		"# c\n\uFEFF[Unit]\n\uFEFFDescription=bom\n" + service,
		" \uFEFF[Unit]\nDescription=bom\n" + service,
		service + "[Unit]\n\uFEFF#Description=bom\n",
		service + "[Unit]\nDescription=a\\\n\uFEFFb\\\n\uFEFFc\n",
		service + "[Unit]\nDescription=",
		service + "[Unit]\nDescription=a\\",
		service + "[Unit]\nDescription=a\\\n",
		service + "[Unit]\nDescription=a\\\n\n",
		service + "[Unit]\nDescription=a\\\n# c",
		service + "[Unit]\nDescription=a\\\n[Service]\nKq=1\n",
		service + "[Unit]\n\\\n\\\nDescription\\\n=\\\na\\\n",
		service + "[Un\\\nit]\nDescription=a\n",
		service + "[Unit\\\n]\nDescription=a\n",
		service + "[Unit]\nDescription=\va\f \n",
		service + "[Unit]\nDescription \t = \t a \t \n",
		service + "[Unit]\n\vDescription=a\n",
	}
	for _, end := range []string{"\n", "\r", "\r\n", "\n\r", "\x00", "\n\x00", "\r\x00", "\r\n\x00", "\n\r\x00", "\x00\n", "\r\r\n", "\n\r\n\r", "\r\n\n\r"} {
		files = append(files, strings.ReplaceAll(service+"[Unit]\nKq=1\nDescription=a\\\nb\nkq\n=\n", "\n", end))
	}
	for _, text := range []string{"\xff", "\xc0\xaf", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xed\xbf\xbf", "\xf0\x80\x80\x80", "\xf4\x8f\xbf\xbd",
		"\xf4\x90\x80\x80", "\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80", "\xfe", "\xc3", "\xe2\x82", "\uFDCF", "\uFDD0", "\uFDEF", "\uFDF0", "\uFFFD", "\uFFFE",
		"\uFFFF", "\U0001FFFD", "\U0001FFFE", "\U0010FFFF", "\u0080", "\u009f", "\x7f", "\x01", "\x1b"} {
		files = append(files,
			service+"[Unit]\nDescription=a"+text+"b\nKq=1\n",
			service+"# "+text+"\n[Unit]\nDescription=a\n["+text+"]\nKq=1\n")
	}
	for _, header := range []string{"[Unit", "[Unit] #", "[Unit];", "[", "[]", "[[Unit]]", "[Unit]]", "[\"Unit\"]", "[Un'it]", "[Un\\it]", "[Un\tit]", "[X-Ours]", "[x-Ours]",
		"[ Unit]", "[unit]", "[Unit]=x", "[Unit]=[x]", "]", "Unit]", "[Install]", "[Größe]", "[Mount]"} {
		files = append(files, service+header+"\nDescription=a\nKq=1\nkq\n=\n[Unit]\nKq=2\n")
	}
	for _, e := range []string{`\a`, `\b`, `\f`, `\n`, `\r`, `\t`, `\v`, `\s`, `\\`, `\"`, `\'`, `\x01`, `\x7f`, `\xC3\xb6`, `\001`, `\177`, `\303\266`,
		`\u0001`, `\u00f6`, `\u20ac`, `\ufeff`, `\ufffd`, `\U00000001`, `\U0001f600`, `\U0010fffd`,
		`\x00`, `\000`, `\u0000`, `\U00000000`, `\U0000d800`, `\U0000fdd0`, `\U0000ffff`, `\U0010ffff`, `\U00110000`, `\Uffffffff`, `\400`, `\777`,
		`\0`, `\01`, `\018`, `\8`, `\x`, `\x4`, `\x4g`, `\xg4`, `\u004`, `\u004g`, `\U0000004`, `\U0000004g`, `\q`, `\N`, `\X41`, `\é`, `\$`, `\;`, `\#`, `\e`} {
		files = append(files, service+"Environment=A=1"+e+" B=2\nSetCredential=a:1"+e+"\nExecStart=/y a"+e+" '"+e+"' \""+e+"\" b\n")
	}
	// What is not UTF-8, D-Bus carries as bytes only.
	for _, e := range []string{`\xff`, `\xC3`, `\377`, `\ud800`, `\udfff`, `\ufdd0`, `\uffff`} {
		files = append(files, service+"Environment=A=1"+e+" B=2\nSetCredential=a:1"+e+"\n")
	}
	return append(files, written()...)
}

// written returns what our own writer makes of awkward words and values.
func written() []string {
	var files []string
	for _, text := range []string{"", "a", " ", "a b", "it's", `say "x"`, `\`, `\\`, `a\`, `\n`, "#", "# c", "a # b", ";", "a ; b", "a;b", "\n", "\r\n", "\t", "\v\f",
		"\x01\x1b\x7f", "\u0085", "ö😀", "\uFEFF", "[Unit]", "a=b", "$X ${X}", "~ * ?", strings.Repeat("x\\\n ", 300)} {
		// The writer leaves specifiers to its caller.
		word := unitfile.QuoteWord(strings.ReplaceAll("A="+text, "%", "%%"))
		files = append(files, mustFormat(word, unitfile.EscapeValue(text+"\x00\xff"+text)))
	}
	for _, value := range []string{`a\`, `a\\`, `a\\\`, `\`} {
		files = append(files, mustFormat(value, value))
	}
	return files
}

func mustFormat(words, value string) string {
	data, err := unitfile.Format([]unitfile.Block{
		{Comment: "Written by our writer.\n"},
		{Name: "Service", Entries: []unitfile.Entry{
			{Key: "ExecStart", Value: "/x " + words},
			{Key: "Environment", Value: words},
			{Key: "SetCredential", Value: "a:" + value},
			{Key: "\uFEFFKq", Value: value},
			{Comment: "last", Key: "SyslogIdentifier", Value: "end"},
		}},
	})
	if err != nil {
		panic(err)
	}
	return string(data)
}
