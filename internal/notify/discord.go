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
	mostContent     = 2000
	mostDescription = 4096
)

// discordMessage is what a webhook of Discord takes.
type discordMessage struct {
	Content         string         `json:"content"`
	Embeds          []discordEmbed `json:"embeds"`
	AllowedMentions discordAllowed `json:"allowed_mentions"`
}

type discordEmbed struct {
	Description string `json:"description"`
	URL         string `json:"url,omitempty"`
	Color       int    `json:"color"`
}

// discordAllowed says whom a message may mention: nobody, whatever it says.
type discordAllowed struct {
	Parse []string `json:"parse"`
}

const (
	discordRed   = 0xe01e5a
	discordGreen = 0x2eb67d
)

func discord(n *notification) []byte {
	d := compose(n, func(d *digest) bool { return len(utf16.Encode([]rune(discordText(d)))) <= mostDescription })
	color := discordRed
	if d.resolved {
		color = discordGreen
	}
	return encode(discordMessage{
		Content:         "**" + discordEscape(d.title) + "**", // twice 300 characters and some at most, twice if all are escaped
		Embeds:          []discordEmbed{{Description: discordText(d), Color: color}},
		AllowedMentions: discordAllowed{Parse: []string{}},
	})
}

func discordText(d *digest) string {
	return d.text(nil, func(summary string) string { return "**" + discordEscape(summary) + "**" }, discordEscape, discordEscape)
}

// discordEscape takes their meaning from the characters of Markdown and of mentions
// with a backslash.
func discordEscape(text string) string {
	return aroundLinks(text, discordMarkdown.Replace, func(link string) string { return link })
}

var discordMarkdown = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `_`, `\_`, `~`, `\~`, "`", "\\`", `|`, `\|`,
	`<`, `\<`, `>`, `\>`, `[`, `\[`, `]`, `\]`, `@`, `\@`, `#`, `\#`)
