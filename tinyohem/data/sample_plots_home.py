"""Plots of the built-in sample corpus that play at home, in the notation of `sample.py`.

Data only. A blank line starts a paragraph. Within a story `{slot}` keeps its first value, so the
toy that is lost is the toy that is found.
"""

HOME_PLOTS: dict[str, str] = {
    "lost_toy": """
<open> [<trait>] {His} favorite thing [was|in the whole world was] a <nice> {color} {toy}. [[{He}
took it everywhere.|{He} played with it every day.|{His} {parent} had given it to {him}.]]

<oneday>, {hero} [took the {toy} to {place} with {his} {parent}|and {his} {parent} took the {toy}
to {place}]. [<see_way>] {He} [played {game} until it was time for lunch|ran around until {he} was
tired|chased <flyers> all the way to {spot}|looked for <color> stones]. [But when {he} looked
down|When it was time to go home|Then, all of a sudden], the {toy} was gone!

"[Oh no|Oh dear]! [I lost my {toy}!|My {toy} is gone!|Where is my {toy}?]" [cried|said|shouted]
{hero}. {He} felt <sad>. [<crying>]

"[Do not worry|Don't be sad|It is okay]," said {his} {parent} <softly>. "[We will look for it
together.|Let's think. Where did you see it last?|Let's go back and look again.]" They looked
[behind|around] <spot>. They looked [near|next to] <spot>. [[They even asked [a farmer|an old man|a
woman with a basket|a policeman|the baker], but nobody had seen it.|It was not there.]]

[Then {hero} heard a funny sound. A <critter> was sitting behind <spot>. And right next to it was
the {color} {toy}!|Just then, a {friend_kid} named {friend} came up to them. "Is this yours?" asked
{friend}. "I found it [on the path|near <spot>|in a puddle]." It was the {toy}!|Then {hero}
remembered. "I put it down to [eat my {basket}|tie my shoe|pick a flower]!" {he} said. {He} ran
back, and there was the {toy}, [safe and dry|waiting for {him}|covered in leaves].|{Parent} looked
up and laughed. "[Look up there|I see it]!" The {toy} was [hanging from a branch|stuck in a <big>
tree], but {his} {parent} got it down with a long stick.]

[[{hero} was <happy>.|{He} jumped up and down.|"Thank you, thank you!" {he} said.]] {He} hugged the
{toy} [tightly|and did not let go]. [<treat>] [From that day on, {hero} always took good care of
{his} things.|{hero} learned to [keep an eye on|look after] the things {he} loved.|<end>]
""",
    "scary_noise": """
<open> [<trait>] [[But {he} did not like the dark.|{He} thought {he} was very brave.]]

[One night|Late one night|One dark and windy night], {hero} was in bed. [[{He} was almost
asleep.|{His} {parent} had just read {him} a story about {dream}.|The moon was hiding behind the
clouds.]] [Then|Suddenly|All at once] {he} heard a noise. "{noise}!" {hero} was <scared>. [[{He}
hid under the blanket.|{He} hugged {his} {toy}.|{His} heart went fast.]]

"[What is that|Who is there|Is it a monster]?" {he} whispered. [Nobody answered.] "{noise}!" went
the noise again. [It was even louder this time.] {hero} [called for {his} {parent}|ran to {his}
{parent}|tiptoed to {his} {parent} in the next room]. "[There is a monster in my room|I heard
something scary|Something is making a noise]!" {he} said.

"[Let's find out together|We will be brave and look|Let's go and see]," said {his} {parent}
<softly>. [[{Parent} took a [small lamp|flashlight|lantern].|They held hands.|They walked very
quietly.]] They looked [under <under>|behind <hideout>]. [They looked [in|behind] the <closet>,
too.] Nothing was there. [Then they looked a little closer|Then they followed the sound|Then {his}
{parent} began to laugh]. It was not a monster at all. It was only {noise.1}!

{hero} [laughed|giggled|let out a long breath]. "[You are not scary at all|So that was the
noise|How silly I was]!" {he} said. <hug> [[{Parent} made {him} a cup of warm milk.|Then they
shared some {snack}.|{Parent} sang a quiet song about {dream2}.]] [Soon {hero} was fast
asleep.|{hero} went back to bed and was not [scared|afraid] anymore.] [{He} knew that [many scary
things are not so scary in the light|it is good to ask for help|being brave means to look even when
you are afraid].]
""",
    "baking": """
<open> [<trait>] {He} loved to [help in the kitchen|cook|eat sweet things].

<anyday>, {hero} and {his} {parent} [wanted|decided] to make a {bake} [for {friend}|for dinner|for
a neighbor who was sick|because it was too [cold|rainy|windy] to go outside]. [[{hero} put on a
{color} apron.|{hero} washed {his} {hand}s.]] "[What do we need|What goes in first|Can I help]?"
{he} asked. "We need {mix_in}, {mix_in2}, and some {mix_in3}," said {his} {parent}.

{hero} [poured|put] the {mix_in} into a big bowl. [[Oops! Some fell on the floor.|A little cloud of
flour [made {him} sneeze|landed on {his} nose].]] Then {he} added the {mix_in2}. [[They took turns
and stirred and stirred.|{He} stirred until {his} arm was tired.]] {Parent} put the {bake}
[in|into] the hot oven. "[Be careful, it is hot|Now we must wait|Do not touch the oven],"
{parent_he} said.

[[While they waited, they played {game}.|While they waited, they [washed the dishes|looked out of
the window and saw <sight>].|{hero} sat in front of the oven and watched.]] Soon, [the whole house
smelled <yum>|{he} could smell it]. [But when {Parent} took it out, it was [flat|a little
burned|crooked] on one side! {hero} was <sad>. "[It does not have to be perfect|It will still taste
good|We can put <topping> on top]," said {his} {parent}.|It was golden and <yum>.|{hero} put
{topping} and {topping2} on top.]

[[{friend} knocked on the door. "[Something smells good!|What is that wonderful smell?]"
{friend_he} said.|They took a big piece to [{elder}|{friend}] next door.|They put it on the table
with {snack2}.]] Everyone [took a bite|had a piece]. "[This is the best {bake} ever!|It is so
yummy!|Mmm, can I have more?]" [they said|said {his} {parent}|said {friend}]. {hero} was <happy>.
[{He} learned that [food tastes better when you make it together|it is fun to make something for
others].|<end>]
""",
    "storm": """
<open> [<trait>]

[One day|One {gray} {part}|On a {gray} {part}], [dark clouds came over {place}|the sky turned
gray|the wind began to blow]. {hero} was [drawing a picture of {dream}|playing {game} with {his}
{parent}|looking out of the window]. [[Drip, drop! The rain began to fall.|Big drops hit the
window.|The trees bent and shook.]] Then there was a [loud|great|terrible] "{thunder}!" {hero}
[jumped|dropped {his} {toy}|ran under the table]. {He} was <scared>.

"It is only thunder," said {his} {parent} <softly>. "[The storm can't come inside|Clouds are
bumping into each other|The rain gives the flowers a drink]." [They counted the time between the
flash and the boom.|They made a tent out of blankets and chairs.|They sang as loud as they could,
louder than the thunder.|{Parent} lit a candle, and they made animal shadows on the wall.] [[{hero}
held {his} {toy} and felt a little better.|They ate <yum> {snack} in the soft light.]]

[[Then they heard a tiny sound at the door. It was a wet little {hurt}! {hero} let it in and dried
it with a {color} towel. "You were afraid, too," {he} said. "You can stay with us."|{hero} thought
of {friend} next door. "Is {friend} scared, too?" {he} asked. {Parent} let {friend} come over, and
the two friends played {game2} until the thunder went away.|Then all the lights went out! "[Don't
worry|It's all right]," said {hero}, who felt brave now. "I know where the flashlight is." {He}
found it under <under>.]]

[At last|After a long time|Soon], the rain stopped and the sun came out. {hero} ran to the window.
"[Look, a rainbow|A rainbow|Come and see]!" {he} [called|shouted]. There were puddles everywhere.
[They put on boots and splashed in every puddle.|A <critter> was taking a bath in a puddle.|The
leaves were shining like <color> glass.] [{hero} learned that [every storm comes to an end|storms
are not so scary when you are together].|<end>]
""",
    "surprise_party": """
<open> [<trait>] {His} best friend was a {friend_kid} named {friend}.

<anyday>, {hero} [remembered something|had an idea|looked at the calendar]. It was {friend}'s
birthday! "[Let's have a party!|I want to make a surprise for {friend_him}!|Can we make a surprise
for {friend_him}?]" {he} said to {his} {parent}. "[What a great idea|I will help you|Yes, but we
must keep it a secret]," said {his} {parent}.

First, they made a {bake}. [They put <topping> on top.] Then they [hung up <color> balloons|cut
stars out of <color> paper|picked some <color> <flowers>]. [{hero} wrapped {gift} in {color2}
paper.|For a present, {hero} found {gift}.] [{elder} brought [{gift2}|a big bowl of {snack2}|a
chair for every guest].] It was hard to keep the secret. [[In the afternoon, {friend} asked, "What
are you doing?" "Oh, nothing," said {hero}, and {he} tried not to laugh.|When {friend} walked by,
{hero} hid the {bake} behind {his} back.|{friend} looked <sad>, because {friend_he} thought
everyone had forgotten {friend_his} special day.]]

[When everything was ready|At last|That evening], everyone hid behind <hideout>. [Somebody giggled.
"Shh!" said {hero}.] The door opened, and {friend} came in. "Surprise!" they all shouted. {friend}
[jumped|could not believe it|opened {friend_his} mouth wide]. Then {friend_he}
[laughed|smiled|clapped]. "[Is this all for me?|You remembered!|This is the best surprise ever!]"
{friend_he} said.

They [sang a song|played {game}|danced] and ate the {bake}. [[{friend} loved {friend_his}
presents.|{friend} made a wish and blew out the candles.|The {bake} fell on the floor, but nobody
minded. They just ate {snack3} instead.]] "Thank you, {hero}. You are the best friend in the
world," said {friend}. {hero} was <happy>. [{He} learned that [giving is as much fun as getting|the
best present is a good friend].] [<end>]
""",
    "telling_truth": """
<open> [<trait>] [{His} {parent} always said, "[Please do not run in the house|Play with the ball
outside]."]

<anyday>, {hero} was [running around|playing {game}|throwing a ball|dancing] in the house. [[It was
fun.|{He} was pretending to be a <cloud>.]] [Suddenly, {he} bumped into the table|{He} did not look
where {he} was going|{He} went too fast and slipped]. Crash! {Parent}'s {color} {fragile} fell
[down|to the floor] and broke.

{hero} [looked at the pieces|stood very still|put {his} {hand} over {his} mouth]. {He} was
<scared>. ["What should I do?"|"Everyone will be angry with me,"|"I will be in trouble,"] {he}
thought. [{He} hid the pieces behind <hideout>.|{He} put the pieces in a box.|{He} ran to {his}
room and shut the door.] [[{He} tried to eat {his} {snack}, but {his} tummy hurt.|{He} tried to
play with {his} {toy}, but it was no fun.]]

[Later|Soon|Before dinner], {his} {parent} came in. "[Where is my {fragile}|Do you know what
happened to my {fragile}|Have you seen my {color} {fragile}]?" {parent_he} asked. [{hero} wanted to
say that the [cat|dog|wind|neighbor] did it.|"No," said {hero}. But {his} face turned red.|{hero}
looked at {his} feet.] [[Telling a lie felt heavy, like a stone.|It was quiet for a long time.]]
Then {he} said, "I broke it. [It was an accident|I was playing|I did not listen to you]. I am so
sorry." [<crying>]

{Parent} [sat down next to {him}|took {his} {hand}|was quiet for a moment]. "[Thank you for telling
me the truth|I am sad about the {fragile}, but I am proud of you|A {fragile} can be fixed, but the
truth is very important]," {parent_he} said. [They [swept up|picked up] the pieces together.|They
fixed the {fragile} with glue. It looked a little crooked, but {Parent} liked it even more.|The
next day, {hero} gave {his} {parent} {gift} to say sorry.] <hug> [[{hero} felt light again.|The bad
feeling was gone.]] [{He} learned that [it is always best to tell the truth|being honest is
brave|everyone can make a mistake].] [<end>]
""",
    "broken_thing": """
<open> [<trait>] {He} had a <nice> {color} {fixable} that {he} [loved very much|played with every
day|had made with {his} {parent}].

<anyday>, {hero} and {his} friend {friend} were playing with the {fixable}. [They were having so
much fun.|They both wanted it at the same time. {hero} pulled, and {friend} pulled.|They pretended
it could take them to {far}.] Then [snap|crack|pop]! The {fixable} broke. "[Oh no|Look what
happened]!" said {friend}. {hero} was <sad>. [<crying>] ["It is all your fault!" {he} shouted, and
{friend} went home without a word.|"I am sorry," said {friend}. "I did not mean to break it."]

{hero} [took|carried|brought] the {fixable} to {his} {parent}. "[Can you fix it|Is it broken
forever|Can we repair it]?" {he} asked. [[{Parent} looked at it closely.|{Parent} put on
{parent_his} glasses.]] "[I think so|Let's try|We can, but I need your help]," said {his} {parent}.
[[They got [glue|a hammer|tape|a screwdriver], [some string|a nail|a piece of wire], and a bit of
{color2} paint.|They took it to {elder}, who could fix anything. {elder} had a shop full of
[tools|old clocks|wheels and springs].]] {hero} [held the pieces together|counted the tiny
screws|passed the tools], and they worked [until dinner|slowly and carefully|for an hour].

[At last, the {fixable} was fixed.|When they were done, the {fixable} looked even better than
before.|Now the {fixable} had a {color2} stripe, and {hero} liked it that way.] "[Thank you|You did
it|We did it]!" said {hero}. [Then {he} [ran|went] to {friend}'s house. "I am sorry I was upset,"
{he} said. "You are more important than a {fixable}." {friend} hugged {him}.|The next day, {hero}
showed it to {friend}. "[It is as good as new|You fixed it|I can't even see where it broke]!" said
{friend}, and they played together again.]

[{hero} learned that [broken things can often be mended|friends matter more than toys|it is good to
ask for help].] [<end>]
""",
    "helping_out": """
<open> [But {he} did not like to help at home.|{He} was [often|sometimes] a bit lazy.|<trait>]

<oneday>, {his} {parent} said, "{hero}, can you help me {job}, please?" "[No, I am playing|I don't
want to|Not now|It is too boring]," said {hero}. {He} went [outside|away] to play {game}. {Parent}
[sighed and started alone|said nothing and got to work]. [It was a lot of work.]

[After a while|From far away|Later], {hero} looked back. {His} {parent} looked [very tired|hot and
tired]. [[{hero} thought about all the things {his} {parent} did for {him}.|{hero} remembered how
{his} {parent} had helped {him} look for {his} {toy}.|A small {bug} was carrying a leaf much bigger
than itself. "Even the {bug} works hard," thought {hero}.]] {hero} felt <sad>. "[I can help|That
was not kind of me|I should help, too]," {he} thought.

{He} ran to {his} {parent}. "I am sorry. I will help you {job} now," {he} said. [[{Parent} was
<happy>.|{Parent} gave {him} a {color} apron.]] At first, {hero} [was very slow|did not know
how|made a mess]. [[Splash! {He} knocked over a bucket, and they both laughed.|"Like this," said
{his} {parent}, and showed {him} how.]] [[They made it into a game and counted out loud.|They sang
a silly song about {dream}.|They pretended to be <cloud>s.]] [[Behind <spot>, {hero} even found
{his} lost {toy2}!|Then {friend} came by and helped, too.]] Before long, the work was done.

"[Thank you|You were such a big help|I could not have done it without you], {hero}," said {his}
{parent}. [[{Parent} had a surprise for {him}. It was {gift}!|<treat>|Then they had time to play
{game} together.]] <hug> [{hero} [learned|found out] that [work is fun when you do it
together|helping makes everyone happy|many {hand}s make the work light].] [<end>]
""",
}
