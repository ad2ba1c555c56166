package notify

import (
	"strings"
	"unicode/utf16"
)

// Discord's limits, in characters. They are counted in units of UTF-16, of which
// there are no fewer.
// https://docs.discord.com/developers/resources/webhook#execute-webhook
// https://docs.discord.com/developers/resources/message#embed-object-embed-limits
const (
	mostDescription = 4096 // of an embed; a content has 2,000 at most

	discordRed   = 0xe01e5a
	discordGreen = 0x2eb67d
)

func discord(n *notification) []byte {
	text := func(d *digest) string { return d.text(markup{"", "**%s**", "%s", discordEscape}) }
	d := compose(n, func(d *digest) bool { return len(utf16.Encode([]rune(text(d)))) <= mostDescription })
	color := discordRed
	if d.resolved {
		color = discordGreen
	}
	return encode(object{
		"content":          "**" + discordEscape(d.title) + "**", // twice 300 characters and some at most, twice if all are escaped
		"embeds":           []object{{"description": text(d), "color": color}},
		"allowed_mentions": object{"parse": []string{}}, // nobody is mentioned, whatever the text says
	})
}

// discordEscape takes their meaning from the characters of Markdown and of mentions
// with a backslash.
func discordEscape(text string) string {
	return aroundLinks(text, discordMarkdown.Replace, func(link string) string { return link })
}

var discordMarkdown = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `_`, `\_`, `~`, `\~`, "`", "\\`", `|`, `\|`,
	`<`, `\<`, `>`, `\>`, `[`, `\[`, `]`, `\]`, `@`, `\@`, `#`, `\#`)
