"""Plots of the built-in sample corpus that play outdoors, in the notation of `sample.py`.

Data only. A blank line starts a paragraph. Within a story `{slot}` keeps its first value, so the
toy that is lost is the toy that is found.
"""

OUTDOOR_PLOTS: dict[str, str] = {
    "sharing": """
<open> [<trait>]

<oneday>, {hero} was {place.1} {place} with a <nice> {color} {shared}. [[It was brand new.|{He} was
very proud of it.|{He} had waited a long time for it.]] A {friend_kid} named {friend} [came
over|walked up to {him}|stopped to watch]. "[Can I|May I|Could I] [play, too|have a turn|try it]?"
asked {friend}.

{hero} [shook {his} head|frowned|held the {shared} tightly]. "No! [It is mine|This is my {shared}|I
do not want to share]," {he} said. {friend} [looked at the ground|walked away slowly|sat down next
to <spot>] and felt <sad>.

[{hero} played alone. [At first it was fun, but soon|After a while] {he} [felt lonely|got
bored].|{He} played for a while, but it was not much fun alone.|{hero} saw {friend}'s sad face, and
{his} tummy felt funny.] [Then {his} {parent} came|{His} {parent} had seen everything and came]
over. "[How would you feel if {friend} did not share with you|Do you think {friend} would like a
turn|What could you do to make {friend} smile]?" asked {his} {parent} in a
[soft|kind|gentle|quiet|calm] voice. {hero} thought about it.

{He} [ran|walked] over to {friend}. "I am sorry," {he} said. "[Let's play together.|You can have
the first turn.|Do you want to play with me?]" {friend} [smiled|clapped|jumped up]. "[Yes,
please|Thank you|I would love to]!" {friend_he} said. They took turns with the {shared} [and
laughed|until the sun went down|all afternoon]. [[{friend} had a bag of {basket}, and {friend_he}
shared it with {hero}.|Then they played {game}.|Soon, more children came, and everyone had a
turn.]]

{hero} learned that [sharing is fun|sharing makes everyone happy|toys are more fun with a friend|a
<kind> heart is better than any toy]. [<end>]
""",
    "new_friend": """
<open> <trait> But {hero} [did not have many friends|wished for a friend to play with|was often
lonely].

<oneday>, {hero} went to {place} with {his} {parent}. <see_way> [Then {he} saw|Near <spot>, {he}
saw] a {friend_kid} who was sitting all alone [next to|by] <spot>. [The {friend_kid} looked
<sad>.|The {friend_kid} was holding a {color} {toy}.]

{hero} [felt shy|was a little shy|did not know what to say]. "[Go and say hello|Just smile and say
your name|Maybe {friend_he} is shy, too]," said {his} {parent}. So {hero} took a deep breath and
walked over. "Hello, my name is {hero}. What is your name?"

"I am {friend}," said the {friend_kid} [quietly|in a tiny voice|and smiled a little]. "[We just
moved here|I am new here|I don't know anyone here]." ["Do you like {snack}?" asked {hero}. "I love
{snack}!" said {friend}. {hero} gave {friend_him} some, and they [ate|munched] together.|"I like
your {color2} [hat|scarf|boots]," said {hero}. {friend} looked up and [smiled|blushed]. "Thank
you," {friend_he} said.|"Do you know how to {skill}?" asked {hero}. "No, but I want to learn," said
{friend}.]

"[Do you want to|Would you like to] play {game}?" asked {hero}. {friend} [nodded|jumped
up|clapped]. They played {game} [all day|until the sun went down|around <spot>]. [[They laughed
when a <critter> made them jump.|{friend} fell into a puddle, and they both laughed.|They made up a
song about {dream}.]] When it was time to go home, {friend} [gave {hero} {gift}.|asked, "Will you
come back tomorrow?"|waved for a long time.] [["Now I have a friend," {hero} told {his}
{parent}.|{hero} was <happy>.]]

[From that day on, {hero} and {friend} were best friends.|They met {place.1} {place} every day
after that.|{hero} learned that a smile can be the start of a friendship.] [<end>]
""",
    "helping_animal": """
<open> {He} [loved|liked|cared about] all animals, big and small. [<trait>]

<oneday>, {hero} was [walking|playing|picking <flowers>] {place.1} {place}. [<see>] Then {he} heard
a [sad|tiny|strange|quiet] cry. Behind {spot}, {he} found a [little|small|tiny] <fur> {hurt}. [Its
{hurt.1} was hurt.|It was stuck [in the mud|under a branch|between two stones].|It had hurt its
{hurt.1} [on a sharp stone|in the storm].] "[Oh, you poor thing|Do not be afraid|Poor little
{hurt}]," said {hero}. "[I will help you|I want to help|Let me see]."

[The {hurt} was <scared>. It [shook|tried to hide|closed its eyes].] {hero} [spoke <softly>|moved
very slowly|sat down and waited] until the {hurt} was not afraid anymore. Then {he} [wrapped it in
{his} scarf|picked it up with care|lifted it gently] and [took it home|carried it to {his}
{parent}]. "[Can we help it|Can you fix its {hurt.1}|What should we do]?" {he} asked.

{Parent} [smiled|nodded]. "[Yes, but we must be gentle|Of course. You did the right thing|Let's
make it a soft bed]," {parent_he} said. They [cleaned|washed] its {hurt.1} and [made a bed from an
old blanket|put it in a warm box|covered it with a soft towel]. They gave it some {hurt.2}. Every
[day|morning], {hero} [talked|sang|read stories] to the {hurt}. [{He} even named it
{animal_name3}.]

[After a week|After many days|Soon], the {hurt} was strong again. [It was time to say goodbye.
{hero} felt <sad>, but {he} knew it missed its family.|"It wants to go home," said {his} {parent}
in a [soft|kind|gentle|quiet|calm] voice.] They took it back to {place}. The {hurt} [looked at
{hero} one last time|made a happy sound|touched {his} {hand}] and went [home|away|to find its
family].

[The next morning, the {hurt} came back to visit, and it brought a friend!|Sometimes, the {hurt}
came back to say hello.|{hero} waved until {he} could not see it anymore.] {hero} [was <happy>|felt
warm inside]. [[It feels good to help someone who is small.|{He} had made a friend for life.|{He}
knew that even someone small can do great things.]]
""",
    "learning": """
<open> [<trait>] There was one thing {hero} [wanted|wished for] more than anything. {He} wanted to
learn to {skill}.

<oneday>, {he} went {skill.2} with {his} {parent}. [<see_way>] [Everyone else could {skill}.|{hero}
saw that {friend} could {skill}, and it looked like so much fun.] "[Will you teach me?|Can you help
me?|May I try, too?]" {he} asked. "[Of course|Yes, let's try|It takes time, but you can do it],"
said {his} {parent}.

{hero} tried. {skill.1}. {He} tried again. [[It was no better.|It was even worse!|{He} [fell|sat]
down with a thump.]] "[I can't do it|This is too hard|I give up]!" {he} said. {He} was <sad>.
[<crying>] [A <critter> near <spot> stopped to watch.]

"[Everyone makes mistakes at first|Nobody learns in one day|When I was little, I could not do it
either]," said {his} {parent} <softly>. "[Try one more time|Take a break, then try again|Just do a
little bit each day]." [They rested and ate some <yum> {snack}.|{Parent} showed {him} how to do it,
step by step.|Then {friend}, {his} friend, came and said, "I fell down many times, too!"]

So {hero} [practiced|tried] [every day|again and again|day after day]. [[{He} practiced in the
morning and in the evening.|Some days were good, and some days were bad.|{He} got a bump on {his}
knee, but {he} did not stop.]] [Then, one <fine> day|After a week|At last], it worked! "[Look at
me|I did it|I can {skill}]!" {he} [shouted|cheered|laughed].

[Everyone clapped.|{His} {parent} clapped and cheered.|Even a <critter> by <spot> seemed to smile.]
{hero} was so proud. [[{He} knew that [if you keep trying, you can learn anything|hard things get
easier when you practice].|The next week, {he} taught {his} little cousin to {skill}, too.]]
[<end>]
""",
    "garden": """
<open> [<trait>]

<oneday>, [{elder}|{his} {parent}] gave {hero} a [tiny|little|small] {color} seed. "[What is
it|What does it do|Is it magic]?" {he} asked. "[Plant it and see|You must wait and see|It is a
secret that is still asleep]," [was the answer|came the reply]. {hero} [ran|went] outside and dug a
hole near <spot>. {He} put the seed in and [covered it with|patted down] the soft, dark soil.

[The next day|The next morning], {he} [looked|ran outside to look]. There was nothing. "[Why does
it not grow|When will it come up|Is it broken]?" {he} asked {his} {parent}. "[Plants need sun,
water, and time|Be patient|Good things take time]," said {his} {parent}. So {hero} [watered it|gave
it water] every [day|morning]. {He} pulled out the weeds. [[{He} even sang to it.|{He} told it
stories about {dream}.|{He} built a little fence around it.]] [[{friend} laughed at {him}. "Nothing
is there," {friend_he} said. But {hero} did not stop.|A <critter> came and tried to dig it up, but
{hero} [gently chased it away|gave it some {snack} instead].|One night there was a storm. {hero}
was <scared> for {his} plant and put a bucket over it.]]

[Many days went by.] Then, one <fine> morning, there was a [tiny green leaf|little green stem|small
shoot] in the soil! "[It is growing|Look, look|It woke up]!" {hero} [shouted|cheered]. It grew
[taller and taller|a little more every day|as tall as {hero}]. [Soon|By the end of summer], it was
a beautiful {plant}. [[Everyone came to see it.|<Flyers> came to visit it.|{friend} came to see it,
too. "[It is so pretty|You did so well|I want to plant one, too]!" {friend_he} said.]] {hero} was
<happy>.

[[{He} gave a part of it to {his} {parent} and said, "[Thank you for helping me wait|This is for
you]."|{He} saved the new seeds and shared them with {friend}.]] [{hero} learned that [good things
take time|it pays to be patient|small seeds can become big things].] [<end>]
""",
    "treasure": """
<open> <trait>

<oneday>, {hero} and {his} friend {friend} were [playing|digging|exploring] {place.1} {place}.
[{He} saw <sight>.] [Next to|Behind] {spot}, {hero} found [an old piece of paper|a dusty bottle
with a note in it|a torn page]. It had [a drawing of a {big_thing} on it|a big {color} X on it|a
line of little dots on it]. "It is a treasure map!" said {friend}. "[Let's follow it|We will be
rich|Come on]!"

They [walked|marched|ran] past <spot> and [over|across] [a little bridge|a field of <flowers>|a
narrow stream]. [On the way, they saw <sight>.] [[{friend} got tired, so they sat down and ate some
{basket}.|A <critter> followed them all the way.|Then the path split in two. "Left or right?" asked
{hero}. They picked the path with the <color> <flowers>.]] [They had to [crawl under|climb over|go
around] <spot>. {hero} was <scared>, but {friend} held {his} {hand}.]

At last, they came to a {big_thing}. "[This must be the place|Here it is|Dig here]!" said {hero}.
They dug and dug. [Clunk! There was something hard in the ground.|Then {friend} felt something with
{friend_his} {hand}.] It was a [wooden|rusty|little] box. {hero} opened it slowly. Inside, there
was {treasure}! [There was also a note. It said, "[Whoever finds this must share it|The real
treasure is the friend beside you|For brave explorers only]."]

["It is ours!" said {friend}. But {hero} [saw|noticed] a name on the box. They took it to {elder},
who [smiled with tears in both eyes|could not believe it]. "I lost this when I was little. Thank
you for being honest," said {elder}, and gave them {basket2} and {gift}.|They [shared it|took turns
keeping it]. One day it was at {hero}'s house, and the next day it was at {friend}'s house.|They
put it back for the next explorer, but first they added [{gift}|a drawing|a note with their
names].] [{hero} and {friend} were <happy>. [They could not wait for the next adventure.|It was the
best adventure ever.]|<end>]
""",
    "lost_way": """
<open> [<trait>] [{His} {parent} always told {him}, "Stay close to me."]

<oneday>, {hero} went to {wide} with {his} {parent}. [[It was very big.|There was so much to see.]]
[On the way, they passed <sight>.] Then {he} saw a <fur> {chased}. "[I want to see it up close|Wait
for me|How pretty]!" {he} said. {hero} followed the {chased} past <spot> and around <spot>. [It
went faster, and {hero} went faster, too.] When {he} [looked back|turned around], {his} {parent}
was [gone|not there].

"[{Parent}! Where are you|{Parent}, {Parent}! Can you hear me]?" {he} called. Nobody answered.
{hero} was <scared>. [<crying>] [[{He} looked left and {he} looked right, but every path looked the
same.|The {chased} was gone, too.|It was getting dark.]] Then {he} remembered what {his} {parent}
had said: "If you are lost, [stay in one place|ask someone kind for help|do not run around]." So
{hero} [sat down|waited] next to {spot}.

[After a while|Soon], {elder} [came by|walked up] with [a basket of {basket}|a big {color2}
umbrella|a sleepy dog]. "[What is the matter|Are you all right|Why are you alone], little one?"
asked {elder}. "I [can't find my {parent}|am lost]," said {hero}. "[I will help you|Don't worry, we
will find {parent_him}|Let's call {parent_his} name together]," said {elder}. [[They sang a loud
song about {dream} so that everyone could hear them.|{elder} gave {him} some {basket}, and {hero}
felt better.|They called and called until a flock of <flyers> flew up.]]

[Then {he} heard a voice. "{hero}! {hero}!"|Then someone came running around the corner.] It was
{his} {parent}! {hero} [ran|jumped] into {parent_his} arms. "[I was so worried|I looked everywhere
for you|I am so glad you are safe]," said {his} {parent}. "I am sorry. I will [stay close|not run
off again]," said {hero}. [They thanked {elder} for being so <kind>.] [From then on, {hero} always
[held {his} {parent}'s {hand}|stayed near {his} {parent}].|<end>]
""",
    "race": """
<open> {He} was [not very fast|small for {his} age|slow but steady]. {friend}, a {friend_kid} next
door, was the fastest of all. "[I am the best|Nobody can beat me|I will always win]!" {friend}
liked to say.

<oneday>, there was a [big race|race] {wide.1} {wide}. [The prize was a <prize>|The winner would
get a big basket of {basket}]. [{hero} wanted to try, but {he} was <scared>. "Just do your best,"
said {his} {parent}.|"You are too slow," {friend} said to {hero}. {hero} felt <sad>, but {he} still
wanted to try.] {elder} held up a {color} flag. "[Ready, set, go|One, two, three, go]!"

{friend} ran ahead [like the wind|past <spot>|in a cloud of dust]. {hero} ran, too, one step at a
time. [[{He} ran by <sight>, but {he} did not stop to look.|{His} legs hurt, but {he} thought of
{dream} and kept going.]]

[[Near <spot>|Halfway], {friend} tripped over a root and fell down. "Ouch! My leg hurts!"
{friend_he} cried. {hero} came along and saw {friend_him}. {He} [wanted to run past|could have
won]. But {he} stopped. "[Are you okay? Come with me|Let me help you|Get up, {friend}]," {he} said.
"[We can finish together|I will not leave you here]." {hero} took {friend}'s {hand}, and side by
side they crossed the line. Everyone cheered even louder. [They shared the prize.]|[Near
<spot>|Halfway], {friend} [looked back and laughed. "I have time to rest," {friend_he} said, and
lay down to sleep|stopped to eat some <yum> {snack2}. "{hero} is far behind me," {friend_he} said].
But {hero} did not stop. {He} went on and on. When {friend} saw {him} again, {hero} was almost at
the end! {friend} ran as fast as {friend_he} could, but it was too late. {hero} crossed the line
first. "Hooray!" shouted the crowd.]

["[You are a good runner|I was wrong about you|I am sorry that I laughed]," said {friend}. "[Thank
you|Let's run together tomorrow]," said {hero}.] [{His} {parent} was so proud.] [<treat>] {friend}
[learned|found out] that [it is not kind to brag|being fast is not everything|a <kind> friend is
worth more than a prize]. [<end>]
""",
}
